"""mmcv is compiled in groups of sources, once, and no bad wheel is kept."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import accelerator  # noqa: E402
import mmcv_compile  # noqa: E402
import mmcv_unity  # noqa: E402
import mmcv_wheel  # noqa: E402

sys.path.remove(str(TOOLS))


def test_wheel_key_tells_apart_what_a_wheel_depends_on() -> None:
    cpu = accelerator.Target("2.11.0+cu130", "", "", "")
    targets = [
        cpu,
        cpu._replace(torch="2.10.0+cu130"),
        cpu._replace(cuda="13.0", archs="9.0"),
        cpu._replace(cuda="13.0", archs="8.0"),
        cpu._replace(cuda="12.8", archs="9.0"),
    ]
    keys = {mmcv_wheel.key(name, t) for t in targets for name in ("mmcv==2.1.0", "mmcv==2.2.0")}
    assert len(keys) == 10
    assert all("/" not in key and ";" not in key for key in keys)


def write_wheel(folder: Path, member: str = "mmcv/_ext.cpython-311-x86_64-linux-gnu.so") -> Path:
    path = folder / "mmcv-2.1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"\x7fELF" + bytes(4000))
    return path


def test_whole_wheel_is_taken_from_the_cache(tmp_path: Path) -> None:
    assert mmcv_wheel.cached(tmp_path) is None
    wheel = write_wheel(tmp_path)
    assert mmcv_wheel.cached(tmp_path) == wheel


def test_truncated_corrupt_or_opless_wheel_is_not(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "mmcv/ops/nms.py")
    assert mmcv_wheel.cached(tmp_path) is None
    content = write_wheel(tmp_path).read_bytes()
    wheel.write_bytes(content[: len(content) // 2])
    assert mmcv_wheel.cached(tmp_path) is None
    wheel.write_bytes(content[:2000] + b"\xff" + content[2001:])
    assert mmcv_wheel.cached(tmp_path) is None


# Stands for the environment's interpreter: `pip download ... -d FOLDER` brings an sdist, the call
# of mmcv_unity.py runs what the test appends, with the wheel's folder as $2.
FAKE_PYTHON = """#!/bin/sh
if [ "$1" = -m ]; then
    while [ "$1" != -d ]; do shift; done
    mkdir -p "$2" && exec cp {sdist} "$2"
fi
"""
CPU = accelerator.Target("2.11.0", "", "", "")


@pytest.fixture
def fake_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make an interpreter that compiles mmcv by the lines of a shell script."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mmcv-2.1.0").mkdir()
    sdist = shutil.make_archive(str(tmp_path / "sdist"), "gztar", tmp_path, "mmcv-2.1.0")

    def make(script: str) -> Path:
        python = tmp_path / "python"
        python.write_text(FAKE_PYTHON.format(sdist=sdist) + script)
        python.chmod(0o755)
        return python

    return make


def test_failed_compilation_leaves_no_wheel_and_names_the_log(
    fake_python: Callable[[str], Path],
) -> None:
    python = fake_python("echo 'fatal error: no such header'\nexit 1\n")
    with pytest.raises(accelerator.EnvError, match="fatal error: no such header"):
        mmcv_wheel.wheel(python, "mmcv==2.1.0", CPU, print)
    assert not mmcv_wheel.might_be_cached("mmcv==2.1.0")
    left = {path.suffix for path in mmcv_wheel.cache_dir().iterdir()}
    assert left == {".lock", ".log"}


def test_compiled_wheel_is_kept_and_reused(
    tmp_path: Path, fake_python: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # mmcv must not see it: CPU ops are wanted
    python = fake_python(
        f'cp {write_wheel(tmp_path)} "$2"\n'
        '[ -z "$CUDA_VISIBLE_DEVICES" ] && [ "$FORCE_CUDA" = 0 ] && [ "${PWD##*/}" = mmcv-2.1.0 ]\n'
    )
    made = mmcv_wheel.wheel(python, "mmcv==2.1.0", CPU, print)
    python.unlink()  # a second compilation would fail
    assert mmcv_wheel.wheel(python, "mmcv==2.1.0", CPU, print) == made
    assert made.parent.parent == mmcv_wheel.cache_dir()
    assert [path.suffix for path in made.parent.parent.iterdir() if path.is_file()] == [".lock"]


def test_group_that_does_not_compile_goes_one_by_one(
    tmp_path: Path, fake_python: Callable[[str], Path]
) -> None:
    python = fake_python(
        f'case "$*" in\n*"--apart group_cpp_1") cp {write_wheel(tmp_path)} "$2";;\n'
        '*) echo "FAILED: [code=1] /b/unity/group_cpp_1.o "; exit 1;;\nesac\n'
    )
    lines: list[str] = []
    mmcv_wheel.wheel(python, "mmcv==2.1.0", CPU, lines.append)
    assert any("group_cpp_1: fails as a whole" in line for line in lines)


def test_only_failed_groups_are_named() -> None:
    log = (
        "[1/3] c++ -c /b/group_cpp_0.cpp -o /b/group_cpp_0.o\nFAILED: [code=1] /b/group_cu_12.o \n"
    )
    log += "FAILED: /b/nms.o\n"
    assert mmcv_compile.failed_groups(log) == {"group_cu_12"}


SOURCES = {
    "pytorch/a.cpp": '#include "../common/shared.h"\nint area(int x) {\n  return x;\n}\n',
    "pytorch/b.cpp": "static int area(\n    int x, int y) {\n  return x * y;\n}\n",
    "pytorch/c.cpp": '#include "shared.h"\nint area(int x);\nint perimeter() {\n return 4;\n}\n',
    "pytorch/d.cpp": "struct Box {\n  int x;\n};\n#define min(a, b) a\nint d = min(1, 2);\n",
    "pytorch/e.cpp": "template <typename T>\nstruct Box {\n  T x;\n};\n// int perimeter() {}\n",
    "common/shared.h": "#pragma once\ninline int helper() { return 1; }\n",
}


@pytest.fixture
def sources(tmp_path: Path) -> list[mmcv_unity.Source]:
    """Sources of which a and b define ``area``, d and e define ``Box``; a and c share a header."""
    for name, text in SOURCES.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = tmp_path / "src"
    paths = sorted((folder / "pytorch").iterdir())
    return [mmcv_unity.read_source(path, [folder / "common"]) for path in paths]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("a", "b", False),  # two functions of one name
        ("a", "c", True),  # one declares what the other defines, both include one header
        ("d", "e", False),  # two types of one name
        ("c", "e", True),  # a comment defines nothing
    ],
)
def test_sources_whose_names_clash_are_not_compiled_together(
    one: str, other: str, together: bool, sources: list[mmcv_unity.Source]
) -> None:
    named = {source.path.stem: source for source in sources}
    assert mmcv_unity.fits(named[one], [named[other]]) is together


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_each_source_is_in_one_of_a_multiple_of_the_jobs(
    jobs: int, sources: list[mmcv_unity.Source]
) -> None:
    groups = mmcv_unity.split(sources, jobs)
    assert sorted(s.path.stem for group in groups for s in group) == list("abcde")
    assert len(groups) == {1: 2, 2: 2, 3: 3}[jobs]
    assert all(mmcv_unity.fits(s, [o for o in g if o is not s]) for g in groups for s in g)


def test_units_compile_what_the_sources_hold(
    tmp_path: Path, sources: list[mmcv_unity.Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    monkeypatch.chdir(tmp_path)
    paths = [str(source.path) for source in sources]
    include = [str(tmp_path / "src/common")]
    units = mmcv_unity.write_units(paths, include, 2, apart=set())
    assert len(units) == 2
    for unit in units:
        subprocess.run([compiler, "-fsyntax-only", "-I", include[0], unit], check=True)
    apart = mmcv_unity.write_units(paths, include, 2, apart={"group_cpp_0"})
    assert set(apart) > {units[1]}
    alone = {str(Path(path).relative_to(tmp_path)) for path in paths}  # setuptools refuses others
    assert len(set(apart) & alone) == len(apart) - 1


def test_cuda_ops_find_the_headers_that_come_with_torch(tmp_path: Path) -> None:
    headers = tmp_path / "lib/python3.11/site-packages/nvidia/cu13/include"
    headers.mkdir(parents=True)
    target = accelerator.Target("2.11.0+cu130", "9.0", "13.0", "")
    python = tmp_path / "bin/python"
    assert str(headers) in mmcv_compile._environ(python, target, tmp_path)["CPATH"]
    older = target._replace(cuda="12.8")
    assert str(headers) not in mmcv_compile._environ(python, older, tmp_path).get("CPATH", "")
