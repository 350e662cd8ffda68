"""Multi-label target for detectors of few classes: which classes are present in each grid cell.

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
class GridMultiLabelTarget(LabelTarget):
    """Classes present in each cell of a grid over the image, learned by sigmoid cross-entropy.

    Where every image shows the same classes, as with a detector of one class, the classes of the
    image give no gradient; where in the image they are still does. Cropr needs one query per cell:
    ``num_queries = rows * columns``.

    A box covers the rows whose middle it spans and the row of its own center, and columns alike, so
    that a small box has a cell too.

    Args:
        num_classes: Classes of the detector.
        grid: Rows and columns over the padded image, or one number for both.

    Raises:
        ValueError: If the grid is not positive.

    Source: our own; for detection the Token Cropr paper has one query and image-level classes.
    """

    grid: tuple[int, int]

    def __init__(self, num_classes: int, grid: int | tuple[int, int]) -> None:
        super().__init__(num_classes, grid)

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Multi-hot vectors of cells, shape (B, M, K), float32.

        Boxes are ``gt_instances.bboxes``, pixels (x1, y1, x2, y2) of the padded image, whose size
        is the sample's ``batch_input_shape`` (mmdet's data preprocessor notes it).
        """
        rows, columns = self.grid
        target = torch.zeros(len(data_samples), rows * columns, self.num_classes, device=device)
        for image, sample in zip(target, data_samples, strict=True):
            boxes, labels, (height, width) = _instances(sample)
            self.check_labels(labels)
            scale = boxes.new_tensor([columns / width, rows / height] * 2)
            x1, y1, x2, y2 = (boxes * scale).to(device).split(1, dim=1)  # (n, 1) each, in cells
            row = torch.arange(rows, device=device)
            column = torch.arange(columns, device=device)
            inside_y = (y1 <= row + 0.5) & (row + 0.5 < y2)
            inside_y |= row == ((y1 + y2) / 2).floor().clamp(0, rows - 1)
            inside_x = (x1 <= column + 0.5) & (column + 0.5 < x2)
            inside_x |= column == ((x1 + x2) / 2).floor().clamp(0, columns - 1)
            cells = (inside_y[:, :, None] & inside_x[:, None]).flatten(1)  # (n, M)
            for label, present in zip(labels.tolist(), cells, strict=True):
                image[present, label] = 1.0
        return target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sigmoid cross-entropy in float32, mean over images, cells and classes."""
        if logits.dim() == 2:
            logits = logits[:, None]  # of one query
        if logits.shape != target.shape:
            raise ValueError(
                f"GridMultiLabelTarget expects logits of shape {tuple(target.shape)} (images, "
                f"cells, classes; one query per cell of {self.grid[0]}x{self.grid[1]}), got "
                f"{tuple(logits.shape)}"
            )
        return F.binary_cross_entropy_with_logits(logits.float(), target)


def _instances(sample: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Boxes (n, 4), labels (n,) and size of the padded image (height, width) of one sample."""
    instances = getattr(sample, "gt_instances", None)
    boxes, labels = getattr(instances, "bboxes", None), getattr(instances, "labels", None)
    size = getattr(sample, "batch_input_shape", None)
    if boxes is None or labels is None or size is None:
        raise ValueError(
            "GridMultiLabelTarget expects data samples with gt_instances.bboxes, "
            "gt_instances.labels and batch_input_shape, as mmdet's data preprocessor leaves them, "
            f"got a {type(sample).__name__} without"
        )
    return getattr(boxes, "tensor", boxes), labels, size
