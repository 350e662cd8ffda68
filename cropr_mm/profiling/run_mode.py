"""In what precision, with which attention kernels and where a module runs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor.config
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNELS = {"flash": "FLASH_ATTENTION", "math": "MATH"}
FREEZE_HELP = "weights are constants of the compiled forms, packed for the CPU's kernels"
_ATTENTION: Any = getattr(nn, "attention", None)  # torch 2.1 has none


@dataclass(frozen=True)
class Mode:
    """Inference or a forward pass of training in one precision.

    Attributes:
        dtype: 'fp32', 'bf16' or 'fp16' for weights, activations and images, or 'amp': weights in
            float32 under torch's autocast, in its default type of the device.
        sdpa: 'auto' leaves the kernel of attention to torch, 'flash' and 'math' allow one only.
        device: Where to run.

    Raises:
        ValueError: If a name is none of these, the device is not there, or torch cannot restrict
            kernels (before 2.3).
    """

    dtype: str = "fp32"
    sdpa: str = "auto"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.dtype not in (*DTYPES, "amp"):
            raise ValueError(f"expected dtype fp32, bf16, fp16 or amp, got {self.dtype}")
        if self.sdpa not in ("auto", *KERNELS):
            raise ValueError(f"expected sdpa auto, flash or math, got {self.sdpa}")
        if self.sdpa != "auto" and not hasattr(_ATTENTION, "sdpa_kernel"):
            raise ValueError(f"sdpa={self.sdpa} needs torch 2.3 or newer, got {torch.__version__}")
        there = available_devices()
        if self.device not in (*there, "meta"):
            raise ValueError(
                f"expected a device that is there ({', '.join(there)}), got {self.device}"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and images."""
        return DTYPES.get(self.dtype, torch.float32)

    def place(self, module: Any) -> Any:
        """Move a module or tensor; a module is left in evaluation mode."""
        placed = module.to(self.device, self.torch_dtype)
        return placed.eval() if isinstance(placed, nn.Module) else placed

    @contextmanager
    def running(self, gradient: bool = False) -> Iterator[None]:
        """Run what is inside in this mode, without gradient unless asked for."""
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(gradient))
            if self.dtype == "amp":
                stack.enter_context(torch.autocast(torch.device(self.device).type))
            stack.enter_context(attention_kernel(self.sdpa))
            yield

    def __str__(self) -> str:
        return f"{self.dtype}, attention kernel {self.sdpa}, {self.device}"


def attention_kernel(sdpa: str) -> AbstractContextManager:
    """Restriction of attention to one kernel, see :class:`Mode`."""
    if sdpa == "auto":
        return nullcontext()
    return _ATTENTION.sdpa_kernel(getattr(_ATTENTION.SDPBackend, KERNELS[sdpa]))


def available_devices() -> list[str]:
    """Names of the devices that torch can use here; a kind alone stands for its current one."""
    found = ["cpu"]
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)  # torch 2.1 has no xpu
        if module is not None and module.is_available():
            found += [kind, *(f"{kind}:{i}" for i in range(module.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def freeze_weights(freeze: bool, compile: bool) -> None:
    """Whether what is compiled from now on, without gradient, has its weights as constants.

    They are then packed once for the CPU's kernels, at the price of a second copy; later changes of
    the weights are not seen. It is a setting of the process.

    Args:
        freeze: Whether to.
        compile: Whether anything is compiled.

    Raises:
        ValueError: If there is nothing to freeze.
    """
    if freeze and not compile:
        raise ValueError("weights are frozen in compiled forms: expected --compile with --freeze")
    torch._inductor.config.freezing = freeze
