"""Which share of the full reduction is in force: what hooks that change it have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.runner import Runner
from torch import nn

from cropr_mm.backbones.find import find_backbones


def check_share(share: float) -> None:
    """Raise ValueError for what is no share of the full reduction."""
    if not 0 <= share <= 1:
        raise ValueError(f"expected --progress in [0, 1], got {share:g}")


def check_reduces_less(model: nn.Module, name: str) -> None:
    """Find out whether the encoders of a model can reduce less than their schedules say.

    Args:
        model: Model, wrapped or not.
        name: Who asks, for the message.

    Raises:
        ValueError: If none reduces, or one has a fixed number of slots.
    """
    reducers = [r for b in find_backbones(model).values() for r in b.reducers.values()]
    if not reducers:
        raise ValueError(
            f"{name} expects a model with a backbone such as cropr_mm.CroprViT that has reducer "
            f"and schedule, got {type(model).__name__} without"
        )
    fixed_slots = sorted({type(reducer).__name__ for reducer in reducers if reducer.fixed_slots})
    if fixed_slots:
        raise ValueError(
            f"{', '.join(fixed_slots)} has as many slots as the schedule leaves tokens, and cannot "
            f"leave more: {name} expects a method without slots"
        )


def check_plans(model: nn.Module, shares: Sequence[float], name: str) -> None:
    """Find out whether the schedules of a model fit its native grid at some shares.

    Raises:
        ValueError: If one does not, such as where survivors would not fill whole windows.
    """
    for backbone in find_backbones(model).values():
        before = backbone.progress
        for share in shares:
            backbone.progress = share
            try:
                backbone.plan()
            except ValueError as error:
                raise ValueError(
                    f"{name}: the schedule does not fit at {share:g} of the full reduction: {error}"
                ) from error
            finally:
                backbone.progress = before


def numbers_of(row: Mapping[str, Any]) -> list[str]:
    """Names of the metrics of a row that a table can show; hosts have numbers of NumPy, too."""
    return [name for name, value in row.items() if isinstance(value, int | float | np.number)]


def set_share(runner: Runner, share: float) -> None:
    """Put a share in force, in a runner's model and in averaged copies that hooks keep.

    Args:
        runner: Its model may be wrapped.
        share: Share of the full reduction, in [0, 1].
    """
    copies = [getattr(hook, "ema_model", None) for hook in runner.hooks]
    models = [runner.model, *(model for model in copies if model is not None)]
    for model in models:
        for backbone in find_backbones(model).values():
            backbone.progress = share
