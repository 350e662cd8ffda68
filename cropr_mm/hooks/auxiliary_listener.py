"""Losses of the auxiliary modules of reducers, taken during the model's own forward pass.

B images, M cells of a grid, n drawn cells, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.hooks.loss_listener import LossListener
from cropr_mm.ops.eager_backward import eager_backward
from cropr_mm.reducers import TokenReducer
from cropr_mm.targets import AuxiliaryTarget, LabelTarget, PatchLabelTarget
from cropr_mm.targets.cells import Drawn, draw_cells


class PassTarget(NamedTuple):
    """What all modules learn in one forward pass.

    Attributes:
        loss: Loss of a module's logits, a float32 scalar.
        cells: Cells whose queries are needed, shape (B, n), int64; None for all cells.
    """

    loss: Callable[..., Tensor]
    cells: Tensor | None = None


@dataclass
class Pass:
    """State of one forward pass.

    Attributes:
        data_samples: Data samples of the batch.
        target: Target of the pass, made when the first module asks for it.
        losses: Losses of the modules that have run, by name.
    """

    data_samples: Any
    target: PassTarget | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)


class AuxiliaryListener(LossListener[Pass]):
    """Listens to the auxiliary modules during a forward pass and adds their losses to its result.

    Behind a stop-gradient no other gradient depends on a module's, so they are computed as soon as
    its logits are there: at most one module's graph is alive at a time (see
    :func:`eager_backward`).

    Args:
        model: Unwrapped model whose ``forward`` takes ``data_samples`` and ``mode``.
        target: What the modules learn.
        loss_weight: Factor of every auxiliary loss.
        num_cells: Cells per image to learn, drawn in every pass; None: all.

    Raises:
        ValueError: If the model has another ``forward``, no module to listen to, modules that do
            not go with the target, or modules with a listener.
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
        self.reducers = named_reducers(model)
        check_target(target, self.reducers, num_cells)
        for name, reducer in self.reducers.items():
            if reducer.has_listener:
                raise ValueError(
                    f"{name} is trained already: expected one CroprAuxLossHook, got two"
                )
        super().__init__(model)
        for name, reducer in self.reducers.items():
            if num_cells is not None:
                self.listen(reducer.attention, self._draw, before=True)
            self.hold(reducer.listen(partial(self._collect, name)))

    def start(self, given: dict[str, Any]) -> Pass:
        """State of a pass with its data samples."""
        return Pass(given["data_samples"])

    def losses(self, state: Pass) -> dict[str, Tensor]:
        """Weighted losses of all modules; RuntimeError if one did not run or learns nothing."""
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
        cells = self._pass_target(self.state, x.device).cells
        assert cells is not None, "there is a number of cells"
        return F.embedding(cells, queries[0]), x  # (B, n, C)

    def _collect(self, name: str, output: Tensor | tuple) -> None:
        """Turn the output of one module into its loss."""
        # Calls outside of a listened pass do not count: recomputation in the backward pass, or a
        # program that runs the backbone alone.
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
        loss = self._pass_target(self.state, logits.device).loss
        if where:
            loss = partial(loss, where=where)
        if reducer.stop_gradient:
            self.state.losses[name] = eager_backward(loss, logits, list(reducer.parameters()))
        else:
            self.state.losses[name] = loss(logits)

    def _pass_target(self, state: Pass, device: torch.device) -> PassTarget:
        """The target of a pass, made when the first module asks for it."""
        if state.target is None:
            encoded = self._encode(state.data_samples, device)
            if self.num_cells is None:
                state.target = PassTarget(partial(_loss, self.target, encoded))
            else:
                assert isinstance(self.target, LabelTarget), "only these have cells"
                noise = torch.rand(len(encoded), self.target.num_queries, device=device)
                drawn = draw_cells(self.target, encoded, noise, self.num_cells)
                state.target = PassTarget(partial(_drawn_loss, self.target, drawn), drawn.cells)
        return state.target

    def _encode(self, data_samples: Any, device: torch.device) -> Tensor:
        if not isinstance(data_samples, (list, tuple)):
            raise ValueError(
                "auxiliary losses need data_samples, a list with one sample per image, got "
                f"{type(data_samples).__name__}"
            )
        return self.target.encode(data_samples, device)


def named_reducers(model: nn.Module) -> dict[str, TokenReducer]:
    """Reducers with an auxiliary module, by the name of their loss.

    Raises:
        ValueError: If the model has none.
    """
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
        got = f"reducers {reducers}" if backbones else "no backbone that reduces tokens"
        raise ValueError(
            "CroprAuxLossHook needs a model with a backbone such as cropr_mm.CroprViT that has "
            "reducer=dict(type='cropr_mm.Cropr', ...) or another reducer with an auxiliary loss, "
            "a schedule and deploy=False; "
            f"{type(model).__name__} has {got}"
        )
    return found


def check_target(
    target: AuxiliaryTarget, reducers: Mapping[str, TokenReducer], num_cells: int | None = None
) -> None:
    """Check that modules can learn a target.

    Args:
        target: The target.
        reducers: Reducers with an auxiliary module, by the name of their loss.
        num_cells: Cells per image to draw; None: all are learned.

    Raises:
        ValueError: If classes, queries or cells differ.
    """
    for name, reducer in reducers.items():
        target.check(name, reducer)
    if num_cells is None:
        return
    for name, reducer in reducers.items():
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


def _loss(
    target: AuxiliaryTarget, encoded: Tensor, logits: Tensor, where: Sequence[Any] = ()
) -> Tensor:
    """Loss of logits of all cells, or of (B, n, K) at the cells and grid that ``where`` holds."""
    if where:
        assert isinstance(target, PatchLabelTarget), "the only one for tokens that exit"
        encoded = target.at(encoded, *where)
    return target.loss(logits, encoded)


def _drawn_loss(target: AuxiliaryTarget, drawn: Drawn, logits: Tensor) -> Tensor:
    """Loss of the logits of drawn cells, (B, n, K)."""
    return drawn.factor * target.loss(logits, drawn.target)


def _check_gradient(name: str, reducer: nn.Module, loss: Tensor) -> None:
    """Raise RuntimeError if a module with trainable parameters would learn nothing."""
    trainable = any(p.requires_grad for p in reducer.parameters())
    if trainable and torch.is_grad_enabled() and not loss.requires_grad:
        raise RuntimeError(
            f"the logits of {name} carry no gradient: the backbone runs under no_grad or inside "
            "a reentrant activation checkpoint; use CroprViT(with_cp=True) to checkpoint its blocks"
        )
