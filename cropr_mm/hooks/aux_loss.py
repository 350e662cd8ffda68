"""Auxiliary losses of Cropr modules, added to the losses of an unmodified model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from cropr_mm.backbones.lookup import auxiliary_reducers, find_backbones
from cropr_mm.ops.settle import settle
from cropr_mm.registry import HOOKS, TASK_UTILS
from cropr_mm.targets.base import AuxiliaryTarget
from cropr_mm.targets.cells import Drawn, draw_cells


@HOOKS.register_module()
class CroprAuxLossHook(Hook):
    """Trains the Cropr modules of any mmengine model; without it they raise in training.

    From ``before_train`` to ``after_train`` the model returns one more loss per Cropr module for
    ``mode='loss'``: ``loss_cropr_b05`` for the module after block 5 (0-based, as in configs and in
    ``backbone.reducers``). Validation, testing and ``mode='predict'`` stay as they are. A copy of
    the model made before training starts (EMAHook's) is a plain model.

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

    Raises:
        ValueError: If ``loss_weight`` is not positive, or there are not so many cells; before
            training, if the model has no Cropr module, or classes or queries of target, modules and
            dataset differ.
    """

    def __init__(
        self, target: dict, loss_weight: float = 1.0, num_cells: int | None = None
    ) -> None:
        if not loss_weight > 0:
            raise ValueError(f"loss_weight must be positive, got {loss_weight}")
        self.target: AuxiliaryTarget = TASK_UTILS.build(target)
        self.loss_weight = loss_weight
        self.num_cells = num_cells
        _check_cells(num_cells, self.target)
        self._listener: AuxiliaryListener | None = None

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        while is_model_wrapper(model):
            model = model.module
        self.after_train(runner)
        self.check(model, runner.train_dataloader.dataset)
        self._listener = AuxiliaryListener(model, self.target, self.loss_weight, self.num_cells)

    def check(self, model: nn.Module, dataset: Any) -> None:
        """Compare target, model and training data.

        Args:
            model: Unwrapped model.
            dataset: Training dataset; its ``metainfo`` may name the classes.

        Raises:
            ValueError: If the model has no Cropr module, or classes or queries differ.
        """
        reducers = _named_reducers(model)
        _check_dataset(dataset, self.target)
        _check_sizes(reducers, self.target)

    def after_train(self, runner: Runner) -> None:
        if self._listener is not None:
            self._listener.remove()
            self._listener = None


class AuxiliaryListener:
    """Listens to the auxiliary heads during a forward pass and adds their losses to its result.

    Everything hangs on forward hooks, so model and backbone keep their class and methods; copies
    and pickles of a model that is being listened to carry their own listener.

    Behind a stop-gradient nobody waits for a module's gradients, so they are computed as soon as
    its logits are there: of all modules, the graph of one at most is alive (see :func:`settle`).

    Args:
        model: Unwrapped model whose ``forward`` takes ``data_samples`` and ``mode``.
        target: What the heads learn.
        loss_weight: Factor of every auxiliary loss.
        num_cells: Cells per image to learn, drawn in every pass; None: all.

    Raises:
        ValueError: If the model has another ``forward``, no module to listen to, or heads with
            other classes than the target.
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
        _check_sizes(self.reducers, target)
        self._arguments = _argument_defaults(model)
        self._pass: _Pass | None = None
        self._handles = [
            model.register_forward_pre_hook(self._open, with_kwargs=True),
            model.register_forward_hook(self._close, with_kwargs=True),
        ]
        for name, reducer in self.reducers.items():
            if num_cells is not None:
                self._handles.append(reducer.attention.register_forward_pre_hook(self._draw))
            hook = partial(self._collect, name)
            self._handles.append(reducer.auxiliary.register_forward_hook(hook))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _open(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        # Also forgets what a forward pass that ended in an exception left behind.
        given = self._given(args, kwargs)
        listening = model.training and given["mode"] == "loss"
        self._pass = _Pass(given["data_samples"]) if listening else None

    def _draw(
        self, attention: nn.Module, args: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor] | None:
        """Leave the queries of the drawn cells."""
        if self._pass is None:
            return None
        queries, x = args
        cells = self._aim(self._pass, x.device).cells
        assert cells is not None, "there is a number of cells"
        return F.embedding(cells, queries[0]), x  # (B, n, C)

    def _collect(self, name: str, auxiliary: nn.Module, args: tuple, logits: Tensor) -> None:
        # Calls outside of a listened pass are none of our business: recomputation in the
        # backward pass, or somebody running the backbone alone.
        if self._pass is None:
            return
        if name in self._pass.losses:
            raise RuntimeError(
                f"the Cropr module of {name} ran twice in one forward pass; expected one call of "
                "the backbone per pass, since one list of data samples belongs to it"
            )
        reducer = self.reducers[name]
        loss = self._aim(self._pass, logits.device).loss
        if getattr(reducer, "stop_gradient", False):
            self._pass.losses[name] = settle(loss, logits, list(reducer.parameters()))
        else:
            self._pass.losses[name] = loss(logits)

    def _close(
        self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any
    ) -> dict[str, Any] | None:
        if self._pass is None:
            return None
        losses, self._pass = self._pass.losses, None
        if not isinstance(output, Mapping):
            raise ValueError(
                f"{type(model).__name__} must return a dict of losses for mode='loss', got "
                f"{type(output).__name__}"
            )
        for name, reducer in self.reducers.items():
            if name not in losses:
                raise RuntimeError(
                    f"the Cropr module of {name} did not run in this forward pass; expected a "
                    "schedule that names the same blocks for every image size, and an encoder that "
                    "runs in every pass"
                )
            _check_gradient(name, reducer, losses[name])
        return {**output, **{name: self.loss_weight * losses[name] for name in self.reducers}}

    def _aim(self, of: "_Pass", device: torch.device) -> "_Aim":
        """What all modules learn in this pass, made for the first one that asks."""
        if of.aim is None:
            target = self._encode(of.data_samples, device)
            if self.num_cells is None:
                of.aim = _Aim(partial(self.target.loss, target=target))
            else:
                noise = torch.rand(len(target), self.target.num_queries, device=device)
                drawn = draw_cells(self.target, target, noise, self.num_cells)
                of.aim = _Aim(partial(_drawn_loss, self.target, drawn), drawn.cells)
        return of.aim

    def _given(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the model's forward by name, however they were passed."""
        return {**self._arguments, **dict(zip(self._arguments, args, strict=False)), **kwargs}

    def _encode(self, data_samples: Any, device: torch.device) -> Tensor:
        if not isinstance(data_samples, (list, tuple)):
            raise ValueError(
                "auxiliary losses need data_samples, a list with one sample per image, got "
                f"{type(data_samples).__name__}"
            )
        return self.target.encode(data_samples, device)


class _Aim(NamedTuple):
    """Loss of a module's logits, and the cells (B, n) whose queries are needed; None: all."""

    loss: Callable[[Tensor], Tensor]
    cells: Tensor | None = None


@dataclass
class _Pass:
    """What belongs to one forward pass: its data, what is learned of them, and losses by name."""

    data_samples: Any
    aim: _Aim | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


def _drawn_loss(target: AuxiliaryTarget, drawn: Drawn, logits: Tensor) -> Tensor:
    return drawn.factor * target.loss(logits, drawn.target)


def _argument_defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of ``model.forward`` in order, with their defaults (None where there is none)."""
    parameters = inspect.signature(model.forward).parameters
    missing = {"data_samples", "mode"} - set(parameters)
    if missing:
        raise ValueError(
            f"expected a model with forward(inputs, data_samples, mode), as mmengine's; "
            f"{type(model).__name__}.forward has no {sorted(missing)}, only {list(parameters)}"
        )
    return {
        name: None if p.default is inspect.Parameter.empty else p.default
        for name, p in parameters.items()
    }


def _named_reducers(model: nn.Module) -> dict[str, nn.Module]:
    """Reducers with an auxiliary head, by the name of their loss."""
    backbones = find_backbones(model)
    found = {}
    for path, backbone in backbones.items():
        middle = f"_{path.replace('.', '_')}" if len(backbones) > 1 else ""
        for block, reducer in auxiliary_reducers(backbone).items():
            found[f"loss_cropr{middle}_b{block:02d}"] = reducer
    if not found:
        reducers = {
            path or "model": sorted({type(r).__name__ for r in b.reducers.values()}) or "none"
            for path, b in backbones.items()
        }
        got = f"reducers {reducers}" if backbones else "no CroprViT at all"
        raise ValueError(
            "CroprAuxLossHook needs a model with a cropr_mm.CroprViT that has "
            "reducer=dict(type='cropr_mm.Cropr', ...), a schedule and deploy=False; "
            f"{type(model).__name__} has {got}"
        )
    return found


def _check_sizes(reducers: dict[str, nn.Module], target: AuxiliaryTarget) -> None:
    for name, reducer in reducers.items():
        num_classes = reducer.auxiliary.head.out_features
        if num_classes != target.num_classes:
            raise ValueError(
                f"the auxiliary head of {name} has num_classes={num_classes}, but "
                f"{type(target).__name__} of CroprAuxLossHook has {target.num_classes}; "
                "both must be the classes of the dataset (backbone.reducer.num_classes and the "
                "hook's target.num_classes)"
            )
        count, grid = reducer.queries.shape[1], reducer.query_grid
        wanted = target.grid
        same_grid = grid is None or wanted is None or grid == wanted
        if count != target.num_queries or not same_grid:
            raise ValueError(
                f"the Cropr module of {name} has num_queries={grid or count}, but "
                f"{type(target).__name__} of CroprAuxLossHook needs "
                f"{wanted or target.num_queries}; set backbone.reducer.num_queries to that"
            )


def _check_cells(num_cells: int | None, target: AuxiliaryTarget) -> None:
    if num_cells is None:
        return
    if target.grid is None:
        raise ValueError(
            "num_cells draws cells of a target on a grid, such as PatchLabelTarget; "
            f"{type(target).__name__} has one target per image, got num_cells={num_cells}"
        )
    if not 1 <= num_cells <= target.num_queries:
        raise ValueError(
            f"expected num_cells from 1 to the {target.num_queries} cells of "
            f"{type(target).__name__}, got {num_cells}"
        )


def _check_dataset(dataset: Any, target: AuxiliaryTarget) -> None:
    """Compare with the dataset's classes where it names them."""
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    if isinstance(classes, (list, tuple)) and len(classes) != target.num_classes:
        noun = "class" if len(classes) == 1 else "classes"
        names = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        raise ValueError(
            f"{type(target).__name__} of CroprAuxLossHook has num_classes={target.num_classes}, "
            f"but the training dataset has {len(classes)} {noun}: {names}"
        )


def _check_gradient(name: str, reducer: nn.Module, loss: Tensor) -> None:
    trainable = any(p.requires_grad for p in reducer.parameters())
    if trainable and torch.is_grad_enabled() and not loss.requires_grad:
        raise RuntimeError(
            f"the logits of {name} carry no gradient: the backbone runs under no_grad or inside "
            "a reentrant activation checkpoint; use CroprViT(with_cp=True) to checkpoint its blocks"
        )
