"""Fit the linear shortcuts of a pruned model, and the choice that goes with them, without labels.

B images, N patch tokens, C channels.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.fusion import Fusion, ShortcutFusion
from cropr_mm.ops.least_squares import LeastSquares
from cropr_mm.ops.padding import is_padding
from cropr_mm.reducers import ShortcutPruner, TokenReducer
from cropr_mm.schedules import ExplicitShares
from cropr_mm.structures import Reduction, Tokens
from cropr_mm.text_table import format_table

_RIDGE = 1e-2
_TINY = 1e-12
"""Added to squared errors, of which one may be 0."""


class StepFit(NamedTuple):
    """How good the fit of one step is.

    Attributes:
        block: 0-based.
        missed: Share of what the blocks in between change that the shortcut does not tell.
        unranked: Share of the logarithm of the remaining error that the score does not tell; None
            where the reducer is no ShortcutPruner.
    """

    block: int
    missed: float
    unranked: float | None


@torch.no_grad()
def fit_shortcuts(backbone: ReducingBackbone, batches: Collection[Tensor]) -> list[StepFit]:
    """Fit fusion and reducers to the dense model's own features, by least squares.

    The encoder sees each batch twice, without pruning: first the shortcuts are fitted, then the
    scores to what these miss. Nothing depends on how much is pruned later, so one fit serves every
    rate.

    Args:
        backbone: With :class:`ShortcutFusion`; changed in place.
        batches: Preprocessed images, each of shape (B, channels, H, W), on its device.

    Returns:
        How good the fit of each step is, by ascending block.
    """
    fusion = backbone.fusion
    assert isinstance(fusion, ShortcutFusion), "its caller built it"
    dim = backbone.embed_dim
    device = next(backbone.parameters()).device
    changes = {block: LeastSquares(dim, dim, device) for block in backbone.reducers}
    for steps, last in _dense_passes(backbone, fusion, batches):
        for block, x in steps.items():
            changes[block].add(x, last - x)
    maps = {block: found.solve(_RIDGE) for block, found in changes.items()}
    for block, shortcut in fusion.shortcuts.items():
        shortcut.fit(*maps[block])

    ranked = [b for b, r in backbone.reducers.items() if isinstance(r, ShortcutPruner)]
    errors = {block: LeastSquares(dim, 1, device) for block in ranked}
    for steps, last in _dense_passes(backbone, fusion, batches if ranked else ()):
        for block, found in errors.items():
            missed = (last - fusion.shortcuts[block](steps[block])).square().sum(dim=1)
            found.add(steps[block], (missed.double() + _TINY).log().unsqueeze(1))
    scores = {block: found.solve(_RIDGE)[0] for block, found in errors.items()}
    for block, score in scores.items():
        backbone.reducers[block].fit(score.squeeze(1))
    return [
        StepFit(
            int(block),
            changes[block].unexplained(maps[block][0]),
            errors[block].unexplained(scores[block]) if block in scores else None,
        )
        for block in backbone.reducers
    ]


def fit_table(fits: list[StepFit]) -> str:
    """Text table of the fits, blocks counted from 1."""
    rows = [["after block", "change guessed", "error ranked"]]
    for fit in fits:
        ranked = "" if fit.unranked is None else f"{1 - fit.unranked:.1%}"
        rows.append([str(fit.block + 1), f"{1 - fit.missed:.1%}", ranked])
    return format_table(rows)


def _dense_passes(
    backbone: ReducingBackbone, fusion: Fusion, batches: Collection[Tensor]
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Patch features (tokens, C) of dense passes: by reducing block, and before the last block.

    Tokens are those of all images of a batch, without padding.
    """
    steps: dict[str, Tokens] = {}
    last: dict[str, Tokens] = {}
    handles = [
        reducer.register_forward_hook(partial(_note_and_keep, steps, block))
        for block, reducer in backbone.reducers.items()
    ]
    handles.append(fusion.register_forward_pre_hook(partial(_note, last, "")))
    try:
        with _keeping_all(backbone):
            for images in batches:
                backbone(images)
                real = ~is_padding(images, backbone.patch_size)
                yield (
                    {b: _features(tokens, real) for b, tokens in steps.items()},
                    _features(last[""], real),
                )
    finally:
        for handle in handles:
            handle.remove()


def _note(noted: dict[str, Tokens], name: str, module: Fusion, args: tuple[Tokens, ...]) -> None:
    noted[name] = args[0]


def _note_and_keep(
    noted: dict[str, Tokens],
    name: str,
    reducer: TokenReducer,
    args: tuple[Tokens, ...],
    output: Reduction,
) -> Reduction:
    """Let all tokens go on, also where a method decides itself how many (ATS with num_points)."""
    noted[name] = args[0]
    return reducer.keep_all(args[0])


def _features(tokens: Tokens, real: Tensor) -> Tensor:
    """Features of the patches that ``real`` (B, N), by raster id, is True for."""
    return tokens.patches[real.gather(1, tokens.index)]


@contextmanager
def _keeping_all(backbone: ReducingBackbone) -> Iterator[None]:
    """Evaluation mode, and all steps in place, none of which drops a token."""
    schedule, training = backbone.schedule, backbone.training
    backbone.schedule = ExplicitShares({int(block): 1.0 for block in backbone.reducers})
    backbone.eval()
    try:
        yield
    finally:
        backbone.schedule = schedule
        backbone.train(training)
