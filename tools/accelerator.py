"""What set-up decides from the GPU, its driver, the CUDA toolkit and the installed torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

# Run by the environment's interpreter: what torch was built for and what the machine offers.
PROBE = """
import json, torch
from torch.utils.cpp_extension import CUDA_HOME
usable = torch.cuda.is_available()
devices = range(torch.cuda.device_count()) if usable else []
print(json.dumps(dict(
    torch=torch.__version__, cuda=torch.version.cuda, toolkit=CUDA_HOME, usable=usable,
    archs=sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in devices}))))
"""

# Oldest driver for programs of a CUDA major release, whatever the minor one:
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# Builds of torch for older drivers, by the CUDA major release of the index's torch.
OLDER_BACKEND = {13: "cu126", 12: "cu118"}

DRIVER = Path("/proc/driver/nvidia/version")
DEVICES = (Path("/dev/nvidia0"), Path("/dev/dxg"))


class EnvError(RuntimeError):
    """Something the user has to change before the set-up can go on."""


class Target(NamedTuple):
    """What mmcv's ops are compiled for."""

    torch: str  # full version, with the local label: 2.11.0+cu130
    archs: str  # GPU architectures as in TORCH_CUDA_ARCH_LIST, empty for CPU ops only
    cuda: str  # toolkit release such as 13.0, empty for CPU ops only
    reason: str  # why a machine with a GPU gets CPU ops, empty otherwise

    @property
    def ops(self) -> str:
        """Which ops are compiled, in words."""
        return f"CUDA {self.cuda} ops (sm {self.archs})" if self.cuda else "CPU ops"


def torch_backend(environ: dict[str, str]) -> str | None:
    """Return the build of torch that ``TORCH_BACKEND`` asks for.

    Returns:
        A name of uv's such as "cu126" or "cpu", "" for the build of the package index
        ("default"), None to keep what is installed.

    Raises:
        EnvError: If the name is none of these.
    """
    asked = environ.get("TORCH_BACKEND", "")
    if asked == "default":
        return ""
    if asked and not re.fullmatch(r"cu\d{3}|cpu", asked):
        raise EnvError(f"expected TORCH_BACKEND=cu126 (or alike), cpu or default, got {asked!r}")
    return asked or None


def installed_backend(site_packages: Path) -> str:
    """Return the label of the installed torch, which the build of the package index lacks."""
    for info in site_packages.glob("torch-*.dist-info"):
        return info.name.removesuffix(".dist-info").partition("+")[2]
    return ""


def split_pins(pins: str, backend: str) -> tuple[str, list[str]]:
    """Take the build of torch out of the pins.

    Returns:
        The other pins, without the index's torch and its CUDA libraries, and the requirements of
        the build for ``backend``.
    """
    build = r"^(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+)==([^\s;]+).*\n"
    torch = [
        f"{name}=={version}+{backend}"
        for name, version in re.findall(build, pins, flags=re.M)
        if name in ("torch", "torchvision")
    ]
    return re.sub(build, "", pins, flags=re.M), torch


def parse_driver(text: str) -> str:
    """Return the version such as "535.104.05" from the driver's or ``nvidia-smi``'s answer."""
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return match[0] if match else ""


def find_driver() -> str:
    """Return the version of the NVIDIA driver, empty if there is none."""
    if DRIVER.exists():
        return parse_driver(DRIVER.read_text())
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_driver(answer.stdout)


def describe() -> str:
    """Describe, without torch, what decides about mmcv's CUDA ops; empty if no GPU is there."""
    names = ("FORCE_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST")
    env_overrides = [os.environ.get(name, "") for name in names]
    if not (env_overrides[0] or any(device.exists() for device in DEVICES)):
        return ""
    driver = parse_driver(DRIVER.read_text()) if DRIVER.exists() else ""
    return json.dumps([*env_overrides, shutil.which("nvcc"), driver])


def driver_summary(driver: str, probe: dict) -> str:
    """Say which driver was found and which one the installed torch needs."""
    if not driver:
        return "no NVIDIA driver found"
    if not probe["cuda"]:
        return f"driver {driver} found; torch {probe['torch']} is built without CUDA"
    needed = OLDEST_DRIVER.get(int(probe["cuda"].split(".")[0]), "unknown")
    return f"driver {driver} found, {needed} or newer needed by torch {probe['torch']}"


def unused_gpu(driver: str, probe: dict) -> str:
    """Say why torch does not use the GPU of this machine and what to do; empty if it does."""
    if probe["usable"] or not driver:
        return ""
    if not probe["cuda"]:
        return f"torch {probe['torch']} is built without CUDA (TORCH_BACKEND=default make env)"
    major, found = int(probe["cuda"].split(".")[0]), int(driver.split(".")[0])
    needed = OLDEST_DRIVER.get(major, 0)
    if found >= needed:
        return "torch sees no GPU (is CUDA_VISIBLE_DEVICES empty?)"
    problem = f"driver {driver} is too old for CUDA {probe['cuda']}: update it to {needed} or newer"
    if found < OLDEST_DRIVER.get(major - 1, found + 1):
        return problem
    return f"{problem}, or take a build for it: TORCH_BACKEND={OLDER_BACKEND[major]} make env"


def missing_for_cuda_ops(probe: dict, toolkit_release: str, archs: str) -> str:
    """Say what is missing to compile CUDA ops; empty if nothing."""
    if not probe["cuda"]:
        return f"torch {probe['torch']} is built without CUDA"
    major = probe["cuda"].split(".")[0]
    if not toolkit_release:
        return f"nvcc is missing: install the CUDA {major} toolkit, or set CUDA_HOME to its folder"
    if toolkit_release.split(".")[0] != major:
        return f"torch needs a CUDA {probe['cuda']} toolkit, found {toolkit_release}"
    return "" if archs else "no GPU visible; set TORCH_CUDA_ARCH_LIST"


def choose_target(
    probe: dict, toolkit_release: str, environ: dict[str, str], driver: str = ""
) -> Target:
    """Decide between CUDA and CPU ops.

    Args:
        probe: What ``PROBE`` printed.
        toolkit_release: Release of the CUDA toolkit that torch finds, empty if none.
        environ: ``FORCE_CUDA=0`` asks for CPU ops, ``FORCE_CUDA=1`` for CUDA ops also where no
            GPU is visible; then ``TORCH_CUDA_ARCH_LIST`` must say for which ones.
        driver: Version of the NVIDIA driver, empty if none.

    Raises:
        EnvError: If CUDA ops are asked for and cannot be built.
    """
    cpu = Target(probe["torch"], "", "", "")
    archs = environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(probe["archs"])
    forced = environ.get("FORCE_CUDA", "")
    missing = missing_for_cuda_ops(probe, toolkit_release, archs)
    if forced == "1" and missing:
        raise EnvError(f"FORCE_CUDA=1, but {missing}")
    if forced == "0":
        return cpu
    if forced != "1" and not probe["usable"]:
        return cpu._replace(reason=unused_gpu(driver, probe))
    if missing:
        return cpu._replace(reason=missing)
    return Target(probe["torch"], archs, toolkit_release, "")


def ask_torch(python: Path) -> dict:
    """Return what ``PROBE`` prints in the environment of ``python``."""
    answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise EnvError(f"torch does not import:\n{answer.stderr.strip()}")
    return json.loads(answer.stdout.splitlines()[-1])


def toolkit_release(folder: str | None) -> str:
    """Return the release such as "13.0" of the CUDA toolkit in ``folder``, empty if none."""
    nvcc = Path(folder or "/nonexistent") / "bin" / "nvcc"
    if not nvcc.exists():
        return ""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"release (\d+\.\d+)", text.stdout)
    return match[1] if match else ""
