"""What a timing ran on."""

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "mmengine", "mmcv")
_HOSTS = ("mmdet", "mmseg", "mmpretrain")


def machine_name(device: str | torch.device) -> str:
    """Name of the GPU or, for any other device, of the CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Versions of Python, CUDA and of the packages that this process has imported."""
    loaded = {name: sys.modules.get(name) for name in (*_PACKAGES, *_HOSTS)}
    found = {name: getattr(m, "__version__", None) for name, m in loaded.items() if m is not None}
    return {"python": platform.python_version(), **found, "cuda": torch.version.cuda}


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
