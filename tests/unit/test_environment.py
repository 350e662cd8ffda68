"""The environment builder notices damage and chooses the right torch and ops."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import accelerator  # noqa: E402
import env_state  # noqa: E402

sys.path.remove(str(TOOLS))

GPU = dict(torch="2.11.0+cu130", cuda="13.0", usable=True, archs=["9.0"])
NO_GPU = {**GPU, "usable": False, "archs": []}
OLD_DRIVER = "535.104.05"


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
    target = accelerator.choose_target(probe, toolkit, environ)
    assert (target.cuda, target.archs) == (cuda, archs)


@pytest.mark.parametrize(
    ("probe", "toolkit", "message"),
    [
        (NO_GPU, "13.0", "TORCH_CUDA_ARCH_LIST"),
        (GPU, "12.1", "found 12.1"),
        (GPU, "", "nvcc is missing: install the CUDA 13 toolkit"),
    ],
)
def test_forced_cuda_ops_that_cannot_be_built_raise(
    probe: dict, toolkit: str, message: str
) -> None:
    with pytest.raises(accelerator.EnvError, match=message):
        accelerator.choose_target(probe, toolkit, {"FORCE_CUDA": "1"})


@pytest.mark.parametrize(
    ("probe", "toolkit", "driver", "reason"),
    [
        (GPU, "13.0", "580.65.06", ""),
        (GPU, "12.1", "580.65.06", "found 12.1"),
        (GPU, "", "580.65.06", "nvcc is missing"),
        (NO_GPU, "13.0", "", ""),  # no GPU in this machine: nothing to explain
        (NO_GPU, "13.0", OLD_DRIVER, "update it to 580 or newer, or take a build for it: "
         "TORCH_BACKEND=cu126 make env"),
        ({**NO_GPU, "cuda": "12.1"}, "", "470.82.01", "525 or newer, .*TORCH_BACKEND=cu118"),
        (NO_GPU, "13.0", "470.82.01", "update it to 580 or newer$"),  # no build of today's torch
        (NO_GPU, "13.0", "580.65.06", "CUDA_VISIBLE_DEVICES"),
        ({**NO_GPU, "cuda": None}, "13.0", "580.65.06", "built without CUDA"),
    ],
)  # fmt: skip
def test_gpu_that_gets_cpu_ops_is_explained(
    probe: dict, toolkit: str, driver: str, reason: str
) -> None:
    found = accelerator.choose_target(probe, toolkit, {}, driver).reason
    assert re.search(reason, found) if reason else found == ""


@pytest.mark.parametrize(
    ("driver", "cuda", "summary"),
    [
        ("", "13.0", "no NVIDIA driver"),
        (OLD_DRIVER, "13.0", "driver 535.104.05 found, 580 or newer needed"),
        (OLD_DRIVER, "12.6", "driver 535.104.05 found, 525 or newer needed"),
        (OLD_DRIVER, None, "built without CUDA"),
    ],
)
def test_driver_found_and_driver_needed_are_said(
    driver: str, cuda: str | None, summary: str
) -> None:
    assert summary in accelerator.driver_summary(driver, {**GPU, "cuda": cuda})


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Rel", "580.65.06"),
        ("550.54\n550.54\n", "550.54"),
        ("NVIDIA-SMI has failed", ""),
    ],
)
def test_driver_is_read_from_its_own_words(text: str, version: str) -> None:
    assert accelerator.parse_driver(text) == version


@pytest.mark.parametrize(
    ("asked", "backend"),
    [(None, None), ("", None), ("default", ""), ("cu126", "cu126"), ("cpu", "cpu")],
)
def test_torch_backend_is_one_of_uvs_or_the_default(asked: str | None, backend: str | None) -> None:
    assert accelerator.torch_backend({"TORCH_BACKEND": asked} if asked else {}) == backend


def test_unknown_torch_backend_is_refused() -> None:
    with pytest.raises(accelerator.EnvError, match="got 'cuda12'"):
        accelerator.torch_backend({"TORCH_BACKEND": "cuda12"})


@pytest.mark.parametrize("name", ["onedl", "openmmlab"])
def test_another_build_of_torch_keeps_all_other_pins(name: str) -> None:
    pins = env_state.stack_named(name).pins.read_text()
    others, torch = accelerator.split_pins(pins, "cu126")
    version = re.search(r"^torch==(\S+)", pins, flags=re.M)
    assert version is not None
    assert torch[0] == f"torch=={version[1]}+cu126"
    assert torch[1].startswith("torchvision==")
    removed = set(pins.splitlines()) - set(others.splitlines())
    assert {re.split(r"[=-]", line)[0] for line in removed} <= {
        "torch", "torchvision", "triton", "nvidia", "cuda"
    }  # fmt: skip
    assert not re.search(r"^(torch|torchvision|nvidia\S*)==", others, flags=re.M)


@pytest.fixture
def stack(tmp_path: Path) -> env_state.Stack:
    """A tiny environment that counts as whole."""
    stack = env_state.Stack("onedl", tmp_path / ".venv")
    site = stack.venv / "lib/python3.11/site-packages"
    for name in ("pkg/__init__.py", "pkg/_ext.so", "pkg-1.0.dist-info/METADATA"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    record = "pkg/__init__.py,sha256=x,0\npkg/_ext.so,sha256=x,0\npkg/__init__.pyc,,\n"
    record += '"pkg-1.0.dist-info/METADATA",sha256=x,0\npkg-1.0.dist-info/RECORD,,\n'
    (site / "pkg-1.0.dist-info/RECORD").write_text(record)
    stack.python.parent.mkdir()
    stack.python.symlink_to(sys.executable)
    files = env_state.installed_files(site)["pkg-1.0.dist-info"]
    stamp = dict(
        fingerprint=env_state.fingerprint(stack), accelerator=accelerator.describe(), files=files
    )
    stack.stamp.write_text(json.dumps(stamp))
    return stack


def test_whole_environment_has_no_fault(stack: env_state.Stack) -> None:
    assert env_state.fault(stack) == ""
    assert env_state.broken_distributions(stack.site_packages) == []


def edit_stamp(stack: env_state.Stack, **changes: str) -> None:
    stack.stamp.write_text(json.dumps(json.loads(stack.stamp.read_text()) | changes))


DAMAGE: dict[str, Callable[[env_state.Stack], object]] = {
    "no environment yet": lambda s: shutil.rmtree(s.venv),
    "does not run": lambda s: s.python.unlink(),
    "never finished": lambda s: s.stamp.unlink(),
    "was never finished": lambda s: s.stamp.write_text(s.stamp.read_text()[:-9]),
    "_ext.so is missing": lambda s: (s.site_packages / "pkg/_ext.so").unlink(),
    "METADATA is missing": lambda s: shutil.rmtree(s.site_packages / "pkg-1.0.dist-info"),
    "have changed": lambda s: edit_stamp(s, fingerprint="of other pins"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damage_is_noticed(message: str, stack: env_state.Stack) -> None:
    DAMAGE[message](stack)
    assert message in env_state.fault(stack)


def test_other_build_of_torch_is_noticed_and_kept_when_nothing_is_asked(
    stack: env_state.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_BACKEND", "cu126")
    assert "another build of torch" in env_state.fault(stack)
    (stack.site_packages / "torch-2.11.0+cu126.dist-info").mkdir()
    assert env_state.fault(stack) == ""
    monkeypatch.delenv("TORCH_BACKEND")
    assert env_state.fault(stack) == ""
    monkeypatch.setenv("TORCH_BACKEND", "default")
    assert "another build of torch" in env_state.fault(stack)


def test_new_accelerator_asks_for_other_ops_and_a_lost_one_does_not(
    stack: env_state.Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "describe", lambda: "a GPU and a toolkit")
    assert "GPU" in env_state.fault(stack)
    edit_stamp(stack, accelerator="a GPU and a toolkit")
    assert env_state.fault(stack) == ""
    monkeypatch.setattr(accelerator, "describe", lambda: "")
    assert env_state.fault(stack) == ""


def test_distribution_without_a_file_or_record_is_broken(stack: env_state.Stack) -> None:
    (stack.site_packages / "pkg/__init__.py").unlink()
    assert env_state.broken_distributions(stack.site_packages) == ["pkg"]
    (stack.site_packages / "pkg/__init__.py").touch()
    (stack.site_packages / "pkg-1.0.dist-info/RECORD").unlink()
    assert env_state.broken_distributions(stack.site_packages) == ["pkg"]


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
