"""Optimizer wrappers that clip auxiliary gradients apart from those of the model.

The auxiliary parameters (queries, aggregators and auxiliary heads) learn from losses of their own
behind a stop-gradient. In one global norm they would decide how far the model itself may step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.registry import OPTIM_WRAPPERS


def auxiliary_parameters(model: nn.Module) -> list[Parameter]:
    """Trainable parameters of all reducers that learn from an auxiliary loss alone.

    Args:
        model: Any model, wrapped for data parallelism or not; without CroprViT there are none.

    Returns:
        Parameters in module order.
    """
    return [
        parameter
        for backbone in find_backbones(model).values()
        for reducer in auxiliary_reducers(backbone).values()
        if reducer.stop_gradient
        for parameter in reducer.parameters()
        if parameter.requires_grad
    ]


class _ClipGroups:
    """Mixin for an OptimWrapper: clips two groups of parameters, each by its own norm.

    ``Runner.train`` hands over the model through ``initialize_count_status``, so any constructor of
    optimizer wrappers will do. The logged ``grad_norm`` is that of the model without its auxiliary
    parameters; theirs is logged as ``grad_norm_auxiliary``. Where FSDP shards the model, norms are
    those of the whole groups.
    """

    _auxiliary: frozenset[Parameter] | None = None
    _shards: dist.ProcessGroup | None = None  # processes that have a part of every parameter

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Learn which parameters are auxiliary, and start counting iterations.

        Raises:
            ValueError: If ``clip_grad`` is set and the optimizer lacks some of the model's
                auxiliary parameters (a wrapper that flattens parameters, or an optimizer built
                for another model), since they could not be told apart.
        """
        super().initialize_count_status(model, init_counts, max_counts)  # type: ignore[misc]
        auxiliary = frozenset(auxiliary_parameters(model))
        optimized = {p for group in self.optimizer.param_groups for p in group["params"]}  # type: ignore[attr-defined]
        if self.clip_grad_kwargs and not auxiliary <= optimized:  # type: ignore[attr-defined]
            raise ValueError(
                f"{type(self).__name__} expects an optimizer with all {len(auxiliary)} auxiliary "
                f"parameters of the model, got one with {len(auxiliary & optimized)} of them"
            )
        self._auxiliary = auxiliary
        self._shards = model.process_group if isinstance(model, FullyShardedDataParallel) else None

    def _clip_grad(self) -> None:
        if self._auxiliary is None:
            raise RuntimeError(
                f"{type(self).__name__} has clip_grad set but was not told the model: call "
                "initialize_count_status(model, init_counts, max_counts) before the first step, "
                "as Runner.train does"
            )
        parameters = [
            p
            for group in self.optimizer.param_groups  # type: ignore[attr-defined]
            for p in group["params"]
            if p.requires_grad
        ]
        self._clip([p for p in parameters if p not in self._auxiliary], self.grad_name)  # type: ignore[attr-defined]
        self._clip(
            [p for p in parameters if p in self._auxiliary],
            f"{self.grad_name}_auxiliary",  # type: ignore[attr-defined]
        )

    def _clip(self, group: list[Parameter], name: str) -> None:
        """Clip one group in place and log its norm before clipping, where the function has one."""
        parameters = [p for p in group if p.grad is not None]
        if self._shards is not None and self.clip_func is clip_grad_norm_:  # type: ignore[attr-defined]
            if not group:  # else also a process that has no part of it takes part in the sum
                return
            norm = clip_sharded_norm_(group, self._shards, **self.clip_grad_kwargs)  # type: ignore[attr-defined]
        elif parameters:
            norm = self.clip_func(parameters, **self.clip_grad_kwargs)  # type: ignore[attr-defined]
        else:
            return
        if norm is not None:
            self.message_hub.update_scalar(f"train/{name}", float(norm))  # type: ignore[attr-defined]


def clip_sharded_norm_(
    parameters: Sequence[Parameter],
    shards: dist.ProcessGroup,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """As ``torch.nn.utils.clip_grad_norm_``, of gradients that are split over processes.

    Args:
        parameters: Parts of this process, at least one, maybe empty or without a gradient.
        shards: Processes that have the other parts; all of them call this.
        max_norm: Largest norm, of all parts together.
        norm_type: Order of the norm; infinity for the largest value.
        error_if_nonfinite: Whether to raise RuntimeError for a norm that is not finite.
        foreach: Whether to use the implementation over lists; None for what is fastest.

    Returns:
        Norm before clipping, a scalar, the same in all processes.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and p.grad.numel()]
    total = torch.zeros((), device=parameters[0].device)
    if gradients:
        total = nn.utils.get_total_norm(gradients, norm_type, False, foreach)
    if norm_type == float("inf"):
        dist.all_reduce(total, dist.ReduceOp.MAX, group=shards)
    else:
        total = total**norm_type
        dist.all_reduce(total, group=shards)
        total = total ** (1 / norm_type)
    if error_if_nonfinite and not total.isfinite():
        raise RuntimeError(f"the norm of order {norm_type} of all gradients is {total.item()}")
    nn.utils.clip_grads_with_norm_(parameters, max_norm, total, foreach)
    return total


@OPTIM_WRAPPERS.register_module()
class CroprOptimWrapper(_ClipGroups, OptimWrapper):
    """OptimWrapper that clips auxiliary gradients as their own group; arguments as its base."""


@OPTIM_WRAPPERS.register_module()
class CroprAmpOptimWrapper(_ClipGroups, AmpOptimWrapper):
    """AmpOptimWrapper that clips auxiliary gradients as their own group; arguments as its base."""


@OPTIM_WRAPPERS.register_module()
class CroprBfloat16OptimWrapper(CroprOptimWrapper):
    """Mixed precision in bfloat16 on any device; arguments as its base.

    mmengine's AmpOptimWrapper wants an accelerator, for the loss scale that float16 needs. bfloat16
    has the range of float32 and needs none, and recent CPUs multiply it several times faster.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward pass of one batch, under autocast."""
        with super().optim_context(model), torch.autocast(get_device(), torch.bfloat16):
            yield
