#!/bin/sh
# Make, check or repair the environment of one stack. Usage: [PYTHON=...] env.sh onedl|openmmlab
#
# Finds an interpreter that the stack supports; tools/env.py does the rest.
set -eu
cd "$(dirname "$0")/.."
stack=${1:-onedl}
case $stack in
    onedl) low=10 high=13 venv=.venv ;;
    openmmlab) low=10 high=11 venv=.venv-openmmlab ;;
    *) echo "env: expected STACK=onedl or STACK=openmmlab, got STACK=$stack" >&2; exit 2 ;;
esac
unset PYTHONPATH PYTHONHOME
export PYTHONNOUSERSITE=1

# A whole environment answers at once.
if [ -x "$venv/bin/python" ] && "$venv/bin/python" tools/env.py "$stack" --check 2>/dev/null; then
    exit 0
fi

# Print "3 11 7" for a working interpreter (a version manager's shim may be there and not work).
version_of() {
    "$1" -c 'import sys; print(*sys.version_info[:3])' 2>/dev/null
}

supported() {
    set -- $(version_of "$1")
    [ $# -eq 3 ] && [ "$1" -eq 3 ] && [ "$2" -ge "$low" ] && [ "$2" -le "$high" ]
}

if [ -n "${PYTHON:-}" ]; then
    candidates=$PYTHON
else
    # 3.11 first: the version that both stacks are tested on most.
    candidates="python3.11 python3.12 python3.10 python3.13 python3 python
        $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[0-3].*/bin/python 2>/dev/null || true)"
fi
found=
for candidate in $candidates; do
    if supported "$candidate"; then
        exec "$candidate" tools/env.py "$stack"
    fi
    version=$(version_of "$candidate" | tr ' ' .) || true
    [ -z "$version" ] || found="$found $candidate ($version)"
done
echo "env: STACK=$stack needs Python 3.$low to 3.$high; found:${found:- none}." >&2
echo "env: install one, or name one: make env STACK=$stack PYTHON=/path/to/python3.11" >&2
exit 1
