"""Share of each class's pixels that the blocks of a trained segmenter still see.

N images, K classes, S steps of the schedule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from numpy.typing import NDArray
from torch import Tensor

from cropr_mm.checkpoints import safe_load
from cropr_mm.inspection.recorder import PruningRecorder
from experiments.runs import Run
from experiments.segmentation_scores import films_of
from experiments.stored_runs import check_run_drops


@dataclass(frozen=True)
class PixelsSeen:
    """Ground-truth pixels whose patch is alive after each step.

    Attributes:
        classes: Names of the K classes.
        blocks: 0-based blocks of the S steps.
        seen: Pixels, shape (N, S, K).
        total: Pixels of the whole image, shape (N, K).
        films: As in :class:`experiments.scores.Scores`.
    """

    classes: tuple[str, ...]
    blocks: tuple[int, ...]
    seen: NDArray[np.int64]
    total: NDArray[np.int64]
    films: Sequence[NDArray[np.int64]] = ()

    def shares(self, images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Percent of the pixels of some images, pooled, (S, K); NaN for a class without pixels."""
        total = self.total[images].sum(axis=0).astype(np.float64)
        total[total == 0] = np.nan
        return 100.0 * self.seen[images].sum(axis=0) / total


@torch.no_grad()
def pixels_seen(run: Run) -> PixelsSeen:
    """Run a pruned segmenter on its test images and count.

    Args:
        run: A finished run of a segmentation benchmark.

    Raises:
        SetupError: If its method merges tokens: then every pixel is seen, as part of a token.
    """
    cfg = Config.fromfile(run.config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    check_run_drops(run, model.backbone)
    model.load_state_dict(safe_load(run.checkpoint)["state_dict"])
    loader = Runner.build_dataloader(cfg.test_dataloader)
    classes = loader.dataset.metainfo["classes"]
    blocks = tuple(model.backbone.num_keep())
    torch.manual_seed(run.seed)  # the random pruner draws
    seen, total, names = [], [], []
    for batch in loader:
        images = model.data_preprocessor(batch)["inputs"]
        with PruningRecorder(model.backbone) as recorder:
            model.backbone(images)
        side = model.backbone.patch_size
        left = recorder.maps().repeat_interleave(side, 1).repeat_interleave(side, 2)
        for sample, left_after in zip(batch["data_samples"], left, strict=True):
            names.append(Path(sample.img_path).stem)
            labels = _as_input(sample, left_after.shape)
            hot = torch.stack([labels == k for k in range(len(classes))])  # (K, H, W)
            alive = torch.stack([(left_after > b) | (left_after < 0) for b in blocks])  # (S, H, W)
            total.append(hot.sum(dim=(1, 2)))
            seen.append((alive[:, None] & hot[None]).sum(dim=(2, 3)))
    films = films_of(cfg.test_dataloader.dataset, names)
    counts = torch.stack(seen).numpy(), torch.stack(total).numpy()
    return PixelsSeen(tuple(classes), blocks, *counts, films)


def _as_input(sample: Any, size: tuple[int, int]) -> Tensor:
    """Label map of a sample in the frame of the model's input; -1 outside of the image."""
    labels = sample.gt_sem_seg.data[None].float()  # (1, 1, h, w)
    height, width = sample.img_shape[:2]
    labels = F.interpolate(labels, size=(height, width), mode="nearest")[0, 0].long()
    return F.pad(labels, (0, size[1] - width, 0, size[0] - height), value=-1)
