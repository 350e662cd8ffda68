"""What a timing ran on, and what ran."""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

_HOME = Path(__file__).parents[2]  # holds the package: a checkout or site-packages
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "mmengine", "mmcv")
_HOSTS = ("mmdet", "mmseg", "mmpretrain")
_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # as /proc/cpuinfo names them


def machine_name(device: str | torch.device) -> str:
    """Name of the GPU or, for any other device, of the CPU with its widest instructions.

    Instances of one name can differ in these, and with them the speed of bfloat16 by several times.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names:
        return platform.processor() or platform.machine()
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    widest = next((kind for kind in _INSTRUCTIONS if kind in flags), None)
    return names[0] if widest is None else f"{names[0]}, {widest}"


def versions() -> dict[str, str | None]:
    """Versions of Python, CUDA and of the packages that this process has imported."""
    loaded = {name: sys.modules.get(name) for name in (*_PACKAGES, *_HOSTS)}
    found = {name: getattr(m, "__version__", None) for name, m in loaded.items() if m is not None}
    return {"python": platform.python_version(), **found, "cuda": torch.version.cuda}


def git_commit(root: Path = _HOME) -> str | None:
    """Commit of the checkout that this package runs from, with '-dirty' if a Python file changed.

    Args:
        root: Top folder of the checkout; by default, the folder that holds the package.

    Returns:
        Its 40 digits; None outside of a checkout, or without git. Changed results and documents
        do not make a checkout dirty.
    """
    if not (root / ".git").exists():  # another repository's, around an environment, is not ours
        return None
    git = partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True)
    try:
        commit = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", "*.py"]
        return f"{commit}-dirty" if git(status).stdout else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def settings_hash(settings: Any) -> str:
    """Twelve hex digits that stand for settings in plain types; what JSON lacks counts as text."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that was given to it; a CPU does it at once."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(function: Callable[[], object], device: str | torch.device) -> int | None:
    """Most memory that tensors occupied while a function ran, in bytes; None without CUDA.

    Everything that is resident counts, so weights and also whatever else the process holds.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)
