"""Label map of the cells of a grid, for semantic segmentation.

B images, M cells in raster order, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.base import LabelTarget


@TASK_UTILS.register_module()
class PatchLabelTarget(LabelTarget):
    """Class of each cell of a grid over the image, learned by cross-entropy.

    A cell has the label of one pixel: cell i of n along a side of s pixels takes pixel
    floor(i * s / n), the first of the cell where n divides s (torch's ``nearest``). Cells are
    relative to the padded image, so the grid need not be that of the patches. Cropr needs one query
    per cell: ``num_queries = rows * columns``. For DToP the grid must be that of the patches.

    Args:
        num_classes: Classes of the segmenter.
        grid: Rows and columns over the padded image, or one number for both.
        ignore_index: Label of pixels without a class, padding among them.

    Raises:
        ValueError: If the grid is not positive, or ``ignore_index`` is a class.

    Source: Token Cropr, the auxiliary loss for semantic segmentation; segm/engine.py of its code.
    """

    tasks = frozenset({"cropr", "exit"})
    grid: tuple[int, int]

    def __init__(
        self, num_classes: int, grid: int | tuple[int, int], ignore_index: int = 255
    ) -> None:
        super().__init__(num_classes, grid)
        if 0 <= ignore_index < num_classes:
            raise ValueError(
                f"expected ignore_index outside of the classes [0, {num_classes - 1}], got "
                f"{ignore_index}"
            )
        self.ignore_index = ignore_index

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Labels of cells, shape (B, M), int64.

        Label maps are ``gt_sem_seg.data``, shape (1, H, W), as padded by mmseg's data preprocessor.

        Raises:
            ValueError: If a sample has no label map, or one of another size than its image, maps
                differ in size, or a cell's label is no class.
        """
        maps = [_label_map(sample) for sample in data_samples]
        sizes = sorted({tuple(labels.shape[-2:]) for labels in maps})
        if len(sizes) > 1:
            raise ValueError(
                "PatchLabelTarget expects label maps of one size, padded by the data preprocessor "
                f"(set its size or size_divisor), got (height, width) {sizes}"
            )
        # Floats hold every label exactly; interpolation takes no int64.
        labels = torch.stack([x.to(device) for x in maps]).float()
        target = F.interpolate(labels, size=self.grid, mode="nearest").long().flatten(1)
        wrong = (target != self.ignore_index) & ((target < 0) | (target >= self.num_classes))
        if wrong.any():
            first = data_samples[int(wrong.any(dim=1).nonzero()[0])]
            raise ValueError(
                f"PatchLabelTarget(num_classes={self.num_classes}) expects labels in "
                f"[0, {self.num_classes - 1}] or ignore_index={self.ignore_index}, got "
                f"{sorted(set(target[wrong].tolist()))}, first in "
                f"{getattr(first, 'seg_map_path', 'a sample')}"
            )
        return target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy in float32, mean over the cells with a class; 0 where there is none."""
        if logits.dim() == 2:
            logits = logits[:, None]  # of one query
        if logits.shape != (*target.shape, self.num_classes):
            raise ValueError(
                f"PatchLabelTarget expects logits of shape {(*target.shape, self.num_classes)} "
                f"(images, cells, classes; one query per cell of {self.grid[0]}x{self.grid[1]}), "
                f"got {tuple(logits.shape)}"
            )
        total = F.cross_entropy(
            logits.float().flatten(0, 1),
            target.flatten(),
            ignore_index=self.ignore_index,
            reduction="sum",
        )
        return total / self.count(target).clamp(min=1)

    def at(self, target: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
        """Labels of some cells.

        Args:
            target: What ``encode`` returned, shape (B, M).
            places: Raster ids, shape (B, n), int64; -1 is ignored.
            grid: Grid that the places belong to.

        Returns:
            Labels, shape (B, n).

        Raises:
            ValueError: If that is another grid.
        """
        if tuple(grid) != tuple(self.grid):
            raise ValueError(
                f"PatchLabelTarget has a grid of {self.grid}, but tokens exit from one of "
                f"{tuple(grid)} patches; set the target's grid to that"
            )
        labels = target.gather(1, places.clamp(min=0))
        return labels.masked_fill(places < 0, self.ignore_index)

    def count(self, target: Tensor) -> Tensor:
        """Cells with a class."""
        return (target != self.ignore_index).sum()


def _label_map(sample: Any) -> Tensor:
    """Labels of one padded image, shape (1, H, W), compared with the image's size where known."""
    labels = getattr(getattr(sample, "gt_sem_seg", None), "data", None)
    if labels is None:
        raise ValueError(
            "PatchLabelTarget expects data samples with gt_sem_seg.data, as mmseg makes them, got "
            f"a {type(sample).__name__} without"
        )
    image, padding = getattr(sample, "img_shape", None), getattr(sample, "padding_size", None)
    if image is not None and padding is not None:
        left, right, top, bottom = padding
        expected = (image[0] + top + bottom, image[1] + left + right)
        if tuple(labels.shape[-2:]) != expected:
            raise ValueError(
                f"expected a label map of the image's size {expected}, padding included, got "
                f"{tuple(labels.shape[-2:])} (height, width) for "
                f"{getattr(sample, 'seg_map_path', 'a sample')}"
            )
    return labels
