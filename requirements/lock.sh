#!/bin/sh
# Resolve requirements/*.in into the pins that `make env` installs. Usage: lock.sh /path/to/uv
set -eu
cd "$(dirname "$0")/.."
uv=$1
for stack in onedl openmmlab; do
    "$uv" pip compile --quiet --upgrade --universal --python-version 3.10 \
        --no-header --no-annotate --override requirements/overrides.txt \
        --output-file "requirements/$stack.txt" "requirements/$stack.in"
    echo "requirements/$stack.txt written"
done
"$uv" pip compile --quiet --upgrade --universal --python-version 3.10 \
    --no-header --no-annotate --output-file requirements/docs.txt requirements/docs.in
echo "requirements/docs.txt written"
