"""Auxiliary losses of Cropr modules, added to the losses of an unmodified model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.hooks.distillation import Distillation
from cropr_mm.hooks.listener import LossListener
from cropr_mm.ops.eager_backward import eager_backward
from cropr_mm.registry import HOOKS, TASK_UTILS
from cropr_mm.targets.base import AuxiliaryTarget, LabelTarget
from cropr_mm.targets.cells import Drawn, draw_cells
from cropr_mm.targets.patch_label import PatchLabelTarget


@HOOKS.register_module()
class CroprAuxLossHook(Hook):
    """Trains the Cropr modules of any mmengine model; without it they raise in training.

    From ``before_train`` to ``after_train`` the model returns one more loss per Cropr module for
    ``mode='loss'``: ``loss_cropr_b05`` for the module after block 5 (0-based, as in configs and in
    ``backbone.reducers``). Other methods with an auxiliary loss have ``loss_keep_b05`` (DynamicViT,
    dTPS), ``loss_exit_b05`` or ``loss_exit_mask_b05`` (DToP). Validation, testing and
    ``mode='predict'`` stay as they are. A copy of the model made before training starts (EMAHook's)
    is a plain model.

    Every module runs in every pass, also where its step keeps all tokens, so
    ``find_unused_parameters`` is not needed under data parallelism.

    Args:
        target: Config of an AuxiliaryTarget, e.g. ``dict(type='cropr_mm.MultiLabelTarget',
            num_classes=80)``.
        loss_weight: Factor of every auxiliary loss, positive. The losses reach the Cropr modules
            only, unless these have ``stop_gradient=False``; it scales their gradients.
        num_cells: For targets on a grid: cells per image that are learned in one iteration, drawn
            for each image anew. Losses and gradients are those of all cells on average, at
            ``num_cells`` / M of the cost. Default: all cells.
        teacher: Arguments of :class:`cropr_mm.hooks.distillation.Distillation`, for methods that
            also learn from a frozen dense model.

    Raises:
        ValueError: If ``loss_weight`` is not positive, or there are not so many cells; before
            training, if the model has no Cropr module, or classes or queries of target, modules and
            dataset differ.
    """

    def __init__(
        self,
        target: dict,
        loss_weight: float = 1.0,
        num_cells: int | None = None,
        teacher: dict | None = None,
    ) -> None:
        if not loss_weight > 0:
            raise ValueError(f"loss_weight must be positive, got {loss_weight}")
        self.target: AuxiliaryTarget = TASK_UTILS.build(target)
        self.loss_weight = loss_weight
        self.num_cells = num_cells
        _check_cells(num_cells, self.target)
        self.distillation = None if teacher is None else Distillation(**teacher)
        self._listeners: list[LossListener] = []

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        self.after_train(runner)
        self.check(model, runner.train_dataloader.dataset)
        if self.distillation is not None:  # a copy of the model, which has no listener yet
            self._listeners.append(self.distillation.listen(model))
        self._listeners.append(
            AuxiliaryListener(model, self.target, self.loss_weight, self.num_cells)
        )

    def check(self, model: nn.Module, dataset: Any) -> None:
        """Compare target, model and training data.

        Args:
            model: Unwrapped model.
            dataset: Training dataset; its ``metainfo`` may name the classes.

        Raises:
            ValueError: If the model has no Cropr module, or classes or queries differ.
        """
        self.target.check_dataset(dataset)
        for name, reducer in _named_reducers(model).items():
            self.target.check(name, reducer)

    def after_train(self, runner: Runner) -> None:
        for listener in self._listeners:
            listener.remove()
        self._listeners.clear()


class AuxiliaryListener(LossListener["_Pass"]):
    """Listens to the auxiliary modules during a forward pass and adds their losses to its result.

    Behind a stop-gradient nobody waits for a module's gradients, so they are computed as soon as
    its logits are there: of all modules, the graph of one at most is alive (see
    :func:`eager_backward`).

    Args:
        model: Unwrapped model whose ``forward`` takes ``data_samples`` and ``mode``.
        target: What the modules learn.
        loss_weight: Factor of every auxiliary loss.
        num_cells: Cells per image to learn, drawn in every pass; None: all.

    Raises:
        ValueError: If the model has another ``forward``, no module to listen to, or modules that
            do not go with the target.
    """

    def __init__(
        self,
        model: nn.Module,
        target: AuxiliaryTarget,
        loss_weight: float = 1.0,
        num_cells: int | None = None,
    ) -> None:
        self.target = target
        self.loss_weight = loss_weight
        self.num_cells = num_cells
        self.reducers = _named_reducers(model)
        for name, reducer in self.reducers.items():
            target.check(name, reducer)
        _check_cells(num_cells, target, self.reducers)
        super().__init__(model)
        for name, reducer in self.reducers.items():
            if num_cells is not None:
                self.listen(reducer.attention, self._draw, before=True)
            self.hold(reducer.listen(partial(self._collect, name)))

    def start(self, given: dict[str, Any]) -> "_Pass":
        return _Pass(given["data_samples"])

    def losses(self, state: "_Pass") -> dict[str, Tensor]:
        weight = self.loss_weight / (len(self.reducers) if self.target.averaged else 1)
        for name, reducer in self.reducers.items():
            if name not in state.losses:
                raise RuntimeError(
                    f"the Cropr module of {name} did not run in this forward pass; expected a "
                    "schedule that names the same blocks for every image size, and an encoder that "
                    "runs in every pass"
                )
            _check_gradient(name, reducer, state.losses[name])
        return {name: weight * state.losses[name] for name in self.reducers}

    def _draw(
        self, attention: nn.Module, args: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Leave the queries of the drawn cells."""
        if self.state is None:
            return None
        queries, x = args
        cells = self._aim(self.state, x.device).cells
        assert cells is not None, "there is a number of cells"
        return F.embedding(cells, queries[0]), x  # (B, n, C)

    def _collect(self, name: str, output: Tensor | tuple) -> None:
        # Calls outside of a listened pass are none of our business: recomputation in the
        # backward pass, or somebody running the backbone alone.
        if self.state is None:
            return
        if name in self.state.losses:
            raise RuntimeError(
                f"the Cropr module of {name} ran twice in one forward pass; expected one call of "
                "the backbone per pass, since one list of data samples belongs to it"
            )
        reducer = self.reducers[name]
        # Tokens that exit bring their cells and grid.
        logits, *where = output if isinstance(output, tuple) else (output,)
        loss = self._aim(self.state, logits.device).loss
        if where:
            loss = partial(loss, where=where)
        if getattr(reducer, "stop_gradient", False):
            self.state.losses[name] = eager_backward(loss, logits, list(reducer.parameters()))
        else:
            self.state.losses[name] = loss(logits)

    def _aim(self, state: "_Pass", device: torch.device) -> "_Aim":
        """What all modules learn in this pass, made for the first one that asks."""
        if state.aim is None:
            target = self._encode(state.data_samples, device)
            if self.num_cells is None:
                state.aim = _Aim(partial(_loss, self.target, target))
            else:
                assert isinstance(self.target, LabelTarget), "only these have cells"
                noise = torch.rand(len(target), self.target.num_queries, device=device)
                drawn = draw_cells(self.target, target, noise, self.num_cells)
                state.aim = _Aim(partial(_drawn_loss, self.target, drawn), drawn.cells)
        return state.aim

    def _encode(self, data_samples: Any, device: torch.device) -> Tensor:
        if not isinstance(data_samples, (list, tuple)):
            raise ValueError(
                "auxiliary losses need data_samples, a list with one sample per image, got "
                f"{type(data_samples).__name__}"
            )
        return self.target.encode(data_samples, device)


class _Aim(NamedTuple):
    """Loss of a module's logits, and the cells (B, n) whose queries are needed; None: all."""

    loss: Callable[..., Tensor]
    cells: Tensor | None = None


@dataclass
class _Pass:
    """What belongs to one forward pass: its data, what is learned of them, and losses by name."""

    data_samples: Any
    aim: _Aim | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


def _loss(
    target: AuxiliaryTarget, encoded: Tensor, logits: Tensor, where: Sequence[Any] = ()
) -> Tensor:
    """Of all cells, or of logits (B, n, K) of some, whose places and grid are given."""
    if where:
        assert isinstance(target, PatchLabelTarget), "the only one that teaches exits"
        encoded = target.at(encoded, *where)
    return target.loss(logits, encoded)


def _drawn_loss(target: AuxiliaryTarget, drawn: Drawn, logits: Tensor) -> Tensor:
    return drawn.factor * target.loss(logits, drawn.target)


def _named_reducers(model: nn.Module) -> dict[str, nn.Module]:
    """Reducers with an auxiliary head, by the name of their loss."""
    backbones = find_backbones(model)
    found = {}
    for path, backbone in backbones.items():
        middle = f"_{path.replace('.', '_')}" if len(backbones) > 1 else ""
        for block, reducer in auxiliary_reducers(backbone).items():
            found[f"loss_{reducer.auxiliary.task}{middle}_b{block:02d}"] = reducer
    if not found:
        reducers = {
            path or "model": sorted({type(r).__name__ for r in b.reducers.values()}) or "none"
            for path, b in backbones.items()
        }
        got = f"reducers {reducers}" if backbones else "no CroprViT at all"
        raise ValueError(
            "CroprAuxLossHook needs a model with a cropr_mm.CroprViT that has "
            "reducer=dict(type='cropr_mm.Cropr', ...) or another reducer with an auxiliary loss, "
            "a schedule and deploy=False; "
            f"{type(model).__name__} has {got}"
        )
    return found


def _check_cells(
    num_cells: int | None, target: AuxiliaryTarget, reducers: Mapping[str, nn.Module] | None = None
) -> None:
    if num_cells is None:
        return
    for name, reducer in (reducers or {}).items():
        if not hasattr(reducer, "attention"):
            raise ValueError(
                f"num_cells draws among queries; {name} of {type(reducer).__name__} has none, got "
                f"num_cells={num_cells}"
            )
    if not isinstance(target, LabelTarget) or target.grid is None:
        raise ValueError(
            "num_cells draws cells of a target on a grid, such as PatchLabelTarget; "
            f"{type(target).__name__} has one target per image, got num_cells={num_cells}"
        )
    if not 1 <= num_cells <= target.num_queries:
        raise ValueError(
            f"expected num_cells from 1 to the {target.num_queries} cells of "
            f"{type(target).__name__}, got {num_cells}"
        )


def _check_gradient(name: str, reducer: nn.Module, loss: Tensor) -> None:
    trainable = any(p.requires_grad for p in reducer.parameters())
    if trainable and torch.is_grad_enabled() and not loss.requires_grad:
        raise RuntimeError(
            f"the logits of {name} carry no gradient: the backbone runs under no_grad or inside "
            "a reentrant activation checkpoint; use CroprViT(with_cp=True) to checkpoint its blocks"
        )
