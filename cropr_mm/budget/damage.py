"""What leaving tokens out does to a trained model's loss, on fixed batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.work import Plan, as_shares

Losses = NDArray[np.float64]
"""Loss of each batch, shape (batches,)."""
MIN_BATCHES = 5
"""Fewest batches that an interval over batches is shown for."""


class DamageMeter:
    """Loss of a model under plans.

    The model is in evaluation mode: its auxiliary modules rest, nothing is dropped out. What a
    head draws at random (anchors, regions) is drawn alike for all plans.

    Args:
        model: The whole model.
        backbone: Its encoder, with a reducer at each block that a plan may name.
        batches: From :func:`cropr_mm.engine.training_batches.training_batches`.
    """

    def __init__(
        self, model: nn.Module, backbone: ReducingBackbone, batches: Sequence[Mapping[str, Any]]
    ) -> None:
        self.model = model.eval()
        self.backbone = backbone
        self.batches = batches
        self.dense = self.losses({})

    @torch.no_grad()
    def losses(self, plan: Plan) -> Losses:
        """Loss of each batch when tokens leave by a plan; an empty one keeps all."""
        self.backbone.schedule = as_shares(self.backbone, plan)
        found = []
        for batch in self.batches:
            torch.manual_seed(0)
            losses = self.model(**batch, mode="loss")
            found.append(float(self.model.parse_losses(losses)[0]))
        return np.array(found)

    def growth(self, plan: Plan) -> float:
        """Mean growth of the loss over the dense model's, as a share of that."""
        return float(self.losses(plan).mean() / self.dense.mean() - 1)


def interval(changed: Losses, base: Losses, samples: int = 2000) -> tuple[float, float]:
    """95 % interval of the growth of a mean loss, as a share, by bootstrap over batches."""
    draws = np.random.default_rng(0).integers(len(base), size=(samples, len(base)))
    grown = changed[draws].mean(axis=1) / base[draws].mean(axis=1) - 1
    low, high = np.quantile(grown, [0.025, 0.975])
    return float(low), float(high)
