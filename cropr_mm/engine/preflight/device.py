"""Refuse a training or test that would not use the GPU of the machine."""

import os
from pathlib import Path
from typing import NamedTuple

import torch

from cropr_mm.engine.preflight.errors import SetupError

# What a process sees of NVIDIA GPUs: on Linux, and in the Linux of Windows.
_DEVICES = (Path("/dev/nvidia0"), Path("/dev/dxg"))


class Machine(NamedTuple):
    """What decides whether a training or test uses a GPU.

    Attributes:
        gpu: Whether the machine shows a GPU that ``CUDA_VISIBLE_DEVICES`` does not hide.
        torch: Version of torch.
        cuda: CUDA release that torch is built for, None if for none.
        usable: Whether torch can use a GPU.
        cuda_ops: Whether mmcv has CUDA ops; None where mmcv has no ops at all.
    """

    gpu: bool
    torch: str
    cuda: str | None
    usable: bool
    cuda_ops: bool | None


def this_machine() -> Machine:
    """Look at devices, torch and mmcv."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1", "NoDevFiles")
    return Machine(
        any(device.exists() for device in _DEVICES) and not hidden,
        torch.__version__,
        torch.version.cuda,
        torch.cuda.is_available(),
        _has_cuda_ops(),
    )


def unused_gpu(machine: Machine) -> str:
    """Say why torch or mmcv would not use the GPU, or fail on it; empty if all is well."""
    if not machine.gpu:
        return ""
    if machine.cuda is None:
        return f"torch {machine.torch} is built without CUDA (TORCH_BACKEND=default make env)"
    if not machine.usable:
        return (
            f"torch {machine.torch} cannot use it: the driver may be too old for CUDA "
            f"{machine.cuda} (make env says which driver it found and needs, and how to take "
            "another build of torch)"
        )
    if machine.cuda_ops is False:
        return (
            "mmcv has CPU ops only, on which detectors fail: run make env where nvcc is installed"
        )
    return ""


def check_device() -> None:
    """Compare the machine with what torch and mmcv can use.

    Raises:
        SetupError: If there is a GPU and the model would not run on it.
    """
    if problem := unused_gpu(this_machine()):
        raise SetupError(f"a GPU is there, but {problem}; --device cpu uses the CPU all the same")


def torch_device(name: str | None) -> str:
    """Name of a device that torch can use.

    Args:
        name: As torch has it, such as 'cuda:1'; None for a GPU where there is one.

    Raises:
        SetupError: If torch knows or finds no such device.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(f"expected a --device that torch can use, got {name}: {reason}") from error
    return name


def _has_cuda_ops() -> bool | None:
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError:  # mmcv-lite
        return None
    return get_compiling_cuda_version() != "not available"
