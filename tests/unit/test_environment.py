"""The environment builder notices damage, chooses the right ops and keeps no bad wheel."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import env  # noqa: E402
import mmcv_wheel  # noqa: E402

sys.path.remove(str(TOOLS))

GPU = dict(torch="2.11.0+cu130", cuda="13.0", usable=True, archs=["9.0"])
NO_GPU = {**GPU, "usable": False, "archs": []}


@pytest.mark.parametrize(
    ("probe", "toolkit", "environ", "cuda", "archs"),
    [
        (GPU, "13.0", {}, "13.0", "9.0"),
        (GPU, "13.2", {}, "13.2", "9.0"),  # torch accepts another minor release
        ({**GPU, "archs": ["8.0", "9.0"]}, "13.0", {}, "13.0", "8.0;9.0"),
        (GPU, "13.0", {"FORCE_CUDA": "0"}, "", ""),
        (GPU, "12.1", {}, "", ""),
        (GPU, "", {}, "", ""),
        (NO_GPU, "13.0", {}, "", ""),  # a toolkit alone is no reason
        (NO_GPU, "13.0", {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.6"}, "13.0", "8.6"),
        ({**GPU, "cuda": None, "usable": False}, "13.0", {}, "", ""),
    ],
)
def test_ops_fit_the_machine(
    probe: dict, toolkit: str, environ: dict, cuda: str, archs: str
) -> None:
    target = mmcv_wheel.choose_target(probe, toolkit, environ)
    assert (target.cuda, target.archs) == (cuda, archs)


@pytest.mark.parametrize(
    ("probe", "toolkit", "message"),
    [(NO_GPU, "13.0", "TORCH_CUDA_ARCH_LIST"), (GPU, "12.1", "found 12.1"), (GPU, "", "nvcc")],
)
def test_forced_cuda_ops_that_cannot_be_built_raise(
    probe: dict, toolkit: str, message: str
) -> None:
    with pytest.raises(mmcv_wheel.BuildError, match=message):
        mmcv_wheel.choose_target(probe, toolkit, {"FORCE_CUDA": "1"})


def test_gpu_without_fitting_toolkit_says_why_it_gets_cpu_ops() -> None:
    assert "found 12.1" in mmcv_wheel.choose_target(GPU, "12.1", {}).reason


def test_wheel_key_tells_apart_what_a_wheel_depends_on() -> None:
    cpu = mmcv_wheel.Target("2.11.0+cu130", "", "", "")
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


def test_failed_compilation_leaves_no_wheel_and_names_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    python = tmp_path / "python"  # stands for `python -m pip wheel ...`
    python.write_text("#!/bin/sh\necho 'fatal error: no such header'\nexit 1\n")
    python.chmod(0o755)
    target = mmcv_wheel.Target("2.11.0", "", "", "")
    with pytest.raises(mmcv_wheel.BuildError, match="fatal error: no such header"):
        mmcv_wheel.wheel(python, "mmcv==2.1.0", target, print)
    assert not mmcv_wheel.might_be_cached("mmcv==2.1.0")
    left = {path.suffix for path in mmcv_wheel.cache_dir().iterdir()}
    assert left == {".lock", ".log"}


def test_compiled_wheel_is_kept_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # mmcv must not see it: CPU ops are wanted
    source = write_wheel(tmp_path)
    python = tmp_path / "python"  # finds the folder that follows -w
    python.write_text(
        f'#!/bin/sh\nwhile [ "$1" != -w ]; do shift; done\ncp {source} "$2"\n'
        f'[ -z "$CUDA_VISIBLE_DEVICES" ] && [ "$FORCE_CUDA" = 0 ] && [ "$PWD" != {tmp_path} ]\n'
    )
    python.chmod(0o755)
    target = mmcv_wheel.Target("2.11.0", "", "", "")
    made = mmcv_wheel.wheel(python, "mmcv==2.1.0", target, print)
    python.unlink()  # a second compilation would fail
    assert mmcv_wheel.wheel(python, "mmcv==2.1.0", target, print) == made
    assert made.parent.parent == mmcv_wheel.cache_dir()
    assert sorted(path.suffix for path in made.parent.parent.iterdir() if path.is_file()) == [
        ".lock"
    ]


@pytest.fixture
def stack(tmp_path: Path) -> env.Stack:
    """A tiny environment that counts as whole."""
    stack = env.Stack("onedl", tmp_path / ".venv")
    site = stack.venv / "lib/python3.11/site-packages"
    for name in ("pkg/__init__.py", "pkg/_ext.so", "pkg-1.0.dist-info/METADATA"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    record = "pkg/__init__.py,sha256=x,0\npkg/_ext.so,sha256=x,0\npkg/__init__.pyc,,\n"
    record += '"pkg-1.0.dist-info/METADATA",sha256=x,0\npkg-1.0.dist-info/RECORD,,\n'
    (site / "pkg-1.0.dist-info/RECORD").write_text(record)
    stack.python.parent.mkdir()
    stack.python.symlink_to(sys.executable)
    files = env.installed_files(site)["pkg-1.0.dist-info"]
    stamp = dict(fingerprint=env.fingerprint(stack), accelerator=env.accelerator(), files=files)
    stack.stamp.write_text(json.dumps(stamp))
    return stack


def test_whole_environment_has_no_fault(stack: env.Stack) -> None:
    assert env.fault(stack) == ""
    assert env.broken_distributions(stack.site_packages) == []


def edit_stamp(stack: env.Stack, **changes: str) -> None:
    stack.stamp.write_text(json.dumps(json.loads(stack.stamp.read_text()) | changes))


DAMAGE: dict[str, Callable[[env.Stack], object]] = {
    "no environment yet": lambda s: shutil.rmtree(s.venv),
    "does not run": lambda s: s.python.unlink(),
    "never finished": lambda s: s.stamp.unlink(),
    "was never finished": lambda s: s.stamp.write_text(s.stamp.read_text()[:-9]),
    "_ext.so is missing": lambda s: (s.site_packages / "pkg/_ext.so").unlink(),
    "METADATA is missing": lambda s: shutil.rmtree(s.site_packages / "pkg-1.0.dist-info"),
    "have changed": lambda s: edit_stamp(s, fingerprint="of other pins"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_noticed(message: str, stack: env.Stack) -> None:
    DAMAGE[message](stack)
    assert message in env.fault(stack)


def test_new_accelerator_asks_for_other_ops_and_a_lost_one_does_not(
    stack: env.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "accelerator", lambda: "a GPU and a toolkit")
    assert "GPU" in env.fault(stack)
    edit_stamp(stack, accelerator="a GPU and a toolkit")
    assert env.fault(stack) == ""
    monkeypatch.setattr(env, "accelerator", lambda: "")
    assert env.fault(stack) == ""


def test_distribution_without_a_file_or_record_is_broken(stack: env.Stack) -> None:
    (stack.site_packages / "pkg/__init__.py").unlink()
    assert env.broken_distributions(stack.site_packages) == ["pkg"]
    (stack.site_packages / "pkg/__init__.py").touch()
    (stack.site_packages / "pkg-1.0.dist-info/RECORD").unlink()
    assert env.broken_distributions(stack.site_packages) == ["pkg"]


@pytest.mark.parametrize(
    ("name", "version", "accepted"),
    [
        ("onedl", "3 9 18", False),
        ("onedl", "3 10 0", True),
        ("onedl", "3 12 1", True),
        ("openmmlab", "3 11 7", True),
        ("openmmlab", "3 12 1", False),
        ("elsewhere", "3 11 7", False),
    ],
)
def test_interpreter_is_checked_before_anything_is_made(
    name: str, version: str, accepted: bool, tmp_path: Path
) -> None:
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOLS / "env.sh", tmp_path / "tools")
    python = tmp_path / "python"  # answers with its version, then accepts to run env.py
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {version} || echo "ran $*"\n')
    python.chmod(0o755)
    run = subprocess.run(
        ["sh", tmp_path / "tools/env.sh", name],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    if accepted:
        assert run.stdout == f"ran tools/env.py {name}\n"
    else:
        assert run.returncode != 0
        assert f"STACK={name}" in run.stderr
        assert name == "elsewhere" or version.replace(" ", ".") in run.stderr
