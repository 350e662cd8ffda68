"""How far an encoder's features are from those of the dense model, before any fine-tuning.

B batch, N patches, C channels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import Tensor

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.checkpoints import load_backbone
from cropr_mm.inspection.recorder import PruningRecorder
from experiments.benchmark_tasks import BenchmarkTask
from experiments.runs import ROOT, Run

ORDERS = {
    f"{order}, {rope}": dict(survivor_order=order, window_rope=rope)
    for order in ("window", "raster")
    for rope in ("origin", "slot")
}
"""Arguments of the encoder by 'survivor_order, window_rope'."""


@torch.no_grad()
def feature_agreement(
    dense: Run, benchmark: BenchmarkTask, variants: Mapping[str, dict[str, Any]]
) -> dict[str, NDArray[np.float64]]:
    """Distance of final features, pruned against dense, at the patches that survive.

    It is the mean squared distance, relative to the dense features' own variance within the image:
    0 for the same features, 1 for features that say no more than their mean.

    All variants have the weights of the dense model and keep the patches of highest pixel variance,
    which depends on the image alone: they differ in nothing but their arguments.

    Args:
        dense: A trained dense model.
        benchmark: Its benchmark; the test images are used.
        variants: Arguments of the encoder by name.

    Returns:
        One value per test image, shape (images,), by name.
    """
    init_default_scope("mmdet")
    cfg = Config.fromfile(dense.config)
    settings = Config.fromfile(ROOT / benchmark.pruned).model.backbone
    encoders = {}
    for name, arguments in variants.items():
        encoder = MODELS.build(
            {**settings, **arguments, "reducer": dict(type="cropr_mm.VariancePruner")}
        )
        load_backbone(encoder, str(dense.checkpoint), "backbone.")
        encoders[name] = encoder.eval()
    full = next(iter(encoders.values())).unpruned()
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    found: dict[str, list[Tensor]] = {name: [] for name in variants}
    for batch in Runner.build_dataloader(cfg.test_dataloader):
        images = preprocess(batch)["inputs"]
        target = full(images)[0]
        for name, encoder in encoders.items():
            found[name].append(_distance(encoder, images, target))
    return {name: torch.cat(values).double().numpy() for name, values in found.items()}


def _distance(encoder: CroprViT, images: Tensor, target: Tensor) -> Tensor:
    """Per image, shape (B,)."""
    with PruningRecorder(encoder) as recorder:
        features = encoder(images)[0]
    alive = (recorder.maps() < 0).to(features)
    errors = (features - target).square().sum(dim=1)  # (B, h, w)
    variances = (target - target.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1)
    return (errors * alive).sum(dim=(1, 2)) / (variances * alive).sum(dim=(1, 2))
