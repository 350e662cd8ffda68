"""What leaving tokens out does to a trained model's loss, on fixed batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner, set_random_seed
from numpy.typing import NDArray
from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.work import Plan, as_shares
from cropr_mm.engine.preflight import SetupError

Losses = NDArray[np.float64]
"""Loss of each batch, shape (batches,)."""


class DamageMeter:
    """Loss of a model under plans.

    The model is in evaluation mode: its auxiliary modules rest, nothing is dropped out. What a
    head draws at random (anchors, regions) is drawn alike for all plans.

    Args:
        model: The whole model.
        backbone: Its encoder, with a reducer at each block that a plan may name.
        batches: From :func:`training_batches`.
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


def training_batches(cfg: Config, model: nn.Module, images: int) -> list[dict[str, Any]]:
    """First batches of the training data in a fixed random order, augmented once, in memory.

    Args:
        cfg: Config with a ``train_dataloader``.
        model: Model whose data preprocessor they pass.
        images: How many images, rounded up to whole batches.

    Raises:
        SetupError: If there are fewer.
    """
    settings = dict(cfg.train_dataloader, num_workers=0, persistent_workers=False)
    for key in ("persistent_workers", "prefetch_factor", "batch_sampler"):
        settings.pop(key, None)
    settings["sampler"] = dict(type="DefaultSampler", shuffle=True)
    set_random_seed(0)  # of augmentation
    loader = Runner.build_dataloader(settings, seed=0)
    if len(loader.dataset) < images:
        raise SetupError(
            f"expected at least {images} training images, got {len(loader.dataset)}: "
            "set a smaller --images"
        )
    batches: list[dict[str, Any]] = []
    taken = 0
    for data in loader:
        batches.append(model.data_preprocessor(data, training=True))
        taken += len(data["inputs"])
        if taken >= images:
            break
    return batches


def interval(changed: Losses, base: Losses, samples: int = 2000) -> tuple[float, float]:
    """95 % interval of the growth of a mean loss, as a share, by bootstrap over batches."""
    draws = np.random.default_rng(0).integers(len(base), size=(samples, len(base)))
    grown = changed[draws].mean(axis=1) / base[draws].mean(axis=1) - 1
    low, high = np.quantile(grown, [0.025, 0.975])
    return float(low), float(high)
