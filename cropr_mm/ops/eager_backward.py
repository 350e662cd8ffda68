"""Losses of a side branch whose gradients are computed at once, so that no graph waits for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.autograd.function import once_differentiable

from cropr_mm.ops.precision import without_autocast

_HALF_RANGE = 2.0**5
"""Sum over rows of float16 gradients of outputs: far from overflow (65504) and underflow."""


def eager_backward(
    loss: Callable[[Tensor], Tensor], outputs: Tensor, parameters: Sequence[Tensor]
) -> Tensor:
    """Loss of a branch that nothing but its own parameters learns from, already differentiated.

    The graph behind ``outputs`` is used and freed in this call. What is left is one gradient for
    each parameter, which the backward pass multiplies by the gradient of the loss and hands on; a
    parameter's own tensor hooks see it in both places. Second derivatives do not exist.

    Float16 gradients do not need a loss scaler: they are scaled here, whatever the loss. Under
    ``torch.compile`` the loss keeps its graph, as any other.

    Args:
        loss: Makes a float32 scalar of ``outputs``, brought to float32.
        outputs: What the branch computed with gradient, any float dtype.
        parameters: Leaves that ``outputs`` depends on; those that need no gradient are left out.

    Returns:
        The loss, attached to ``parameters``; detached where gradients are off.
    """
    if not outputs.requires_grad or not torch.is_grad_enabled() or torch._dynamo.is_compiling():
        return loss(outputs.float())
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    leaf = outputs.detach().float().requires_grad_()
    value = loss(leaf)
    with _unobserved(), without_autocast(outputs.device.type):
        (grad,) = torch.autograd.grad(value, leaf)
        if outputs.dtype == torch.float16:
            rows = grad.reshape(-1, grad.shape[-1])
            scale = _HALF_RANGE / rows.abs().sum(dim=0).amax().clamp(min=1e-20)
            grad = grad * scale
        else:
            scale = None
        found = torch.autograd.grad(outputs, parameters, grad.to(outputs.dtype), allow_unused=True)
        pairs = [(p, g) for p, g in zip(parameters, found) if g is not None]  # noqa: B905
        gradients = [gradient for _, gradient in pairs]
        if scale is not None:
            gradients = [gradient / scale for gradient in gradients]
        return _EagerBackward.apply(
            value.detach(), gradients, *(parameter for parameter, _ in pairs)
        )


def used_at_once() -> AbstractContextManager:
    """Surroundings of a forward pass whose graph is used up inside, by :func:`eager_backward`.

    Tensors kept for backward are out of reach of hooks: activation checkpointing around it would
    run everything again to recompute them, offloading would copy them away and back. And autocast
    does not hold on to half-precision copies of weights that are used once.
    """
    # The compiler follows neither, and its graphs are not used up here.
    return nullcontext() if torch._dynamo.is_compiling() else _used_at_once()


@contextmanager
def _used_at_once() -> Iterator[None]:
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with _unobserved():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


def _unobserved() -> AbstractContextManager:
    return torch.autograd.graph.saved_tensors_hooks(_same, _same)


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _EagerBackward(torch.autograd.Function):
    """A number whose derivatives by the parameters are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(saved * gradient for saved in ctx.saved_tensors)
