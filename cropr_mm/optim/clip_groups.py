"""Optimizer wrappers that clip auxiliary gradients apart from those of the model.

The auxiliary parameters (queries, aggregators and auxiliary heads) learn from losses of their own
behind a stop-gradient. In one global norm they would decide how far the model itself may step.
"""

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn
from torch.nn import Parameter

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
    parameters; theirs is logged as ``grad_norm_auxiliary``.
    """

    _auxiliary: frozenset[Parameter] | None = None

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
            if p.requires_grad and p.grad is not None
        ]
        self._clip([p for p in parameters if p not in self._auxiliary], self.grad_name)  # type: ignore[attr-defined]
        self._clip(
            [p for p in parameters if p in self._auxiliary],
            f"{self.grad_name}_auxiliary",  # type: ignore[attr-defined]
        )

    def _clip(self, parameters: list[Parameter], name: str) -> None:
        """Clip one group in place and log its norm before clipping, where the function has one."""
        if not parameters:
            return
        norm = self.clip_func(parameters, **self.clip_grad_kwargs)  # type: ignore[attr-defined]
        if norm is not None:
            self.message_hub.update_scalar(f"train/{name}", float(norm))  # type: ignore[attr-defined]


@OPTIM_WRAPPERS.register_module()
class CroprOptimWrapper(_ClipGroups, OptimWrapper):
    """OptimWrapper that clips auxiliary gradients as their own group; arguments as its base."""


@OPTIM_WRAPPERS.register_module()
class CroprAmpOptimWrapper(_ClipGroups, AmpOptimWrapper):
    """AmpOptimWrapper that clips auxiliary gradients as their own group; arguments as its base."""
