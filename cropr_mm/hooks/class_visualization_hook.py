"""Pictures of classified test images in their own colors."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.engine.hooks import VisualizationHook

from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class ClassVisualizationHook(VisualizationHook):
    """mmpretrain's hook for images that were loaded as BGR, as they are by default.

    Its visualizer takes them for RGB and draws them with red and blue swapped.
    """

    def _draw_samples(
        self, batch_idx: int, data_batch: dict, data_samples: Sequence[Any], step: int = 0
    ) -> None:
        images = [image.flip(0) for image in data_batch["inputs"]]  # (C, H, W)
        super()._draw_samples(batch_idx, {**data_batch, "inputs": images}, data_samples, step)
