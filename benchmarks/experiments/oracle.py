"""A choice of tokens that knows the ground truth: what any pruner of a segmenter could win.

Only segmenters with :class:`InformedSegmenter` can be pruned like this, in training and in tests.

B images, K classes, N patch tokens of an h x w grid, H x W pixels.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as HOST_MODELS
from mmseg.models import EncoderDecoder
from torch import Tensor

from cropr_mm.reducers import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens

_LABELS: ContextVar[Sequence[Tensor]] = ContextVar("labels", default=())
"""Label maps (H, W) of the images in the running forward pass, whose arguments have no room."""


@HOST_MODELS.register_module()
class InformedSegmenter(EncoderDecoder):
    """mmseg's segmenter, which lets its reducers see the label maps of the running pass."""

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """As the base class."""
        known = _LABELS.set([sample.gt_sem_seg.data[0] for sample in data_samples])
        try:
            return super().forward(inputs, data_samples, mode)
        finally:
            _LABELS.reset(known)


class InformedPruner(TokenPruner):
    """Score cells by their ground truth.

    Args:
        embed_dim: C, given by the backbone.
        num_classes: K; other labels are worth nothing.
    """

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__(embed_dim)
        self.num_classes = num_classes

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Worth of the cells that are alive, shape (B, N); all the same where nothing is known.

        That is so where the encoder runs alone, such as when its speed is measured.
        """
        labels = _LABELS.get()
        if not labels:
            return torch.zeros_like(tokens.index, dtype=torch.float32)
        shares = torch.stack([cell_shares(x, tokens.grid, self.num_classes) for x in labels])
        return self.worth(shares.to(tokens.x.device)).flatten(1).gather(1, tokens.index)

    def worth(self, shares: Tensor) -> Tensor:
        """Worth of every cell, (B, h, w), from the share of each class in it, (B, K, h, w)."""
        raise NotImplementedError


@MODELS.register_module()
class RareFirst(InformedPruner):
    """Keep cells of the classes that cover little of the image.

    Each class has the same worth in all, spread evenly over its pixels: the mean over classes,
    which mIoU is, sees it so.
    """

    def worth(self, shares: Tensor) -> Tensor:
        """Sum over classes of the part of the class that lies in the cell."""
        total = shares.sum(dim=(2, 3), keepdim=True)
        return (shares / total.clamp(min=torch.finfo(shares.dtype).tiny)).sum(dim=1)


@MODELS.register_module()
class BordersFirst(InformedPruner):
    """Keep cells in which classes meet, then those with the classes of little area."""

    def worth(self, shares: Tensor) -> Tensor:
        """Share of the labelled pixels that are not of the cell's largest class; ties by rarity."""
        mixed = shares.sum(dim=1) - shares.amax(dim=1)
        total = shares.sum(dim=(2, 3), keepdim=True)
        rare = (shares / total.clamp(min=torch.finfo(shares.dtype).tiny)).sum(dim=1)
        return mixed + 1e-2 * rare


def cell_shares(labels: Tensor, grid: tuple[int, int], num_classes: int) -> Tensor:
    """Share of each cell's pixels that a class covers, shape (K, h, w), float32.

    Args:
        labels: Label map of one image, shape (H, W), integers; of another size than the model's
            input where a test loads it so.
        grid: h, w.
        num_classes: K; pixels with other labels count for no class.
    """
    hot = torch.stack([labels == k for k in range(num_classes)]).float()
    return F.adaptive_avg_pool2d(hot, grid)
