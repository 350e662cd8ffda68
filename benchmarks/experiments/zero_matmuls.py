"""Running a model for the sizes of its tensors, where fake tensors cannot: without its matmuls.

Heads of detectors ask for numbers (which boxes overlap, how many are left), which fake tensors do
not have. Here every tensor is real, but matrix products, convolutions, attention and RoIAlign give
zeros at once, as do other operators on tensors larger than any list of boxes. A large model takes
seconds on a CPU, and the rest follows from the zeros.
"""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_NAMES = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "convolution",
    "convolution_backward",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
)
# Torch 2.1 has no kernels of their own for the CPU.
MATMULS = frozenset(
    getattr(torch.ops.aten, name).default for name in _NAMES if hasattr(torch.ops.aten, name)
)
"""Operators that are not computed."""

LARGE = 2**21
"""Elements of a floating-point tensor from which on the operators of MAPS are not computed: more
than the anchors of an image of 1536 pixels have."""
MAPS = frozenset(
    getattr(getattr(torch.ops.aten, name), overload)
    for name, overload in (
        ("_softmax", "default"),
        ("_softmax_backward_data", "default"),
        ("_to_copy", "default"),
        ("add", "Tensor"),
        ("addcmul", "default"),
        ("cat", "default"),
        ("clone", "default"),
        ("gelu", "default"),
        ("gelu_backward", "default"),
        ("mul", "Tensor"),
        ("native_layer_norm", "default"),
        ("native_layer_norm_backward", "default"),
        ("silu", "default"),
        ("silu_backward", "default"),
        ("sub", "Tensor"),
        ("threshold_backward", "default"),
    )
)
"""Operators on maps of features."""


@contextmanager
def zero_matmuls() -> Iterator[None]:
    """Inside, matmuls are zeros with the shapes, strides and dtypes that they would have.

    Forward and backward passes work, on the CPU. What a kernel allocates inside is not there. Of
    mmcv's extension, where there is one, RoIAlign leaves its outputs as they are, and suppression
    of boxes takes any dtype, so that models run under autocast as they do on a GPU.
    """
    with ExitStack() as stack:
        try:
            extension = importlib.import_module("mmcv._ext")
        except ImportError:
            pass  # mmcv-lite, or none: no model here uses it
        else:
            nms = extension.nms
            stack.enter_context(
                mock.patch.multiple(
                    extension,
                    nms=lambda boxes, scores, **kw: nms(boxes.float(), scores.float(), **kw),
                    roi_align_forward=_nothing,
                    roi_align_backward=_nothing,
                )
            )
        stack.enter_context(_ZeroMatmuls())
        yield


class _ZeroMatmuls(TorchDispatchMode):
    """Replaces what the operators of MATMULS would compute."""

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in MATMULS and not (func in MAPS and _is_large(args)):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(self._without_numbers, (args, kwargs or {}))
        with self._fake:
            out = func(*args, **kwargs)
        return tree_map(_zeros, out)

    def _without_numbers(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        with self._fake:
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Of an operator that fills tensors which it is given."""


def _is_large(args: tuple) -> bool:
    """Whether a tensor of LARGE is among the arguments, all of which are floating-point."""
    tensors = [leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, Tensor)]
    return any(t.numel() >= LARGE for t in tensors) and all(t.is_floating_point() for t in tensors)


def _zeros(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    # numpy's zeros take no memory until something is written to them.
    extent = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)) + 1
    length = extent * value.element_size() if value.numel() else 0
    flat = torch.from_numpy(np.zeros(length, dtype=np.uint8)).view(value.dtype)
    return flat.as_strided(value.shape, value.stride())
