"""Contract of an auxiliary target."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor


class AuxiliaryTarget(ABC):
    """What auxiliary heads learn: encoded once per batch, compared with each head's logits.

    Args:
        num_classes: Classes that the auxiliary heads predict, at least 1.
        grid: Rows and columns of a dense target, or one number for both; None for one target per
            image.

    Attributes:
        grid: Rows and columns, or None.
        num_queries: Queries that each Cropr module must have: 1, or one per cell of the grid.

    Raises:
        ValueError: If ``num_classes`` or the grid are not positive integers.
    """

    def __init__(self, num_classes: int, grid: int | tuple[int, int] | None = None) -> None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer, got {num_classes!r}")
        self.num_classes = num_classes
        self.grid: tuple[int, int] | None = None if grid is None else to_2tuple(grid)
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise ValueError(f"expected a grid of positive rows and columns, got {grid}")
        self.num_queries = 1 if self.grid is None else self.grid[0] * self.grid[1]

    @abstractmethod
    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Turn the data samples of one batch into the target that all modules share.

        Args:
            data_samples: One data sample of the host library per image, B of them.
            device: Where the logits are.

        Returns:
            Target with batch size B, in the form that ``loss`` takes. That of a grid has its cells
            in the second dimension, so that it can be taken apart by cell.

        Raises:
            ValueError: If a sample lacks the annotation, or a label is not a class.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of one auxiliary head.

        Args:
            logits: Shape (B, num_classes), or (B, M, num_classes) for M queries; any float dtype.
            target: What ``encode`` returned, maybe at some cells only, as are the logits.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: If logits and target do not belong together.
        """

    def count(self, target: Tensor) -> Tensor:
        """Over how many cells ``loss`` is a mean, a scalar; by default all that are there.

        Args:
            target: Of a grid, shape (B, M, ...), maybe at some cells only.
        """
        return torch.tensor(target.shape[0] * target.shape[1], device=target.device)

    def check_labels(self, labels: Tensor) -> None:
        """Raise a ValueError that names the labels, of any shape, that are no class."""
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            raise ValueError(
                f"{type(self).__name__}(num_classes={self.num_classes}) expects labels in "
                f"[0, {self.num_classes - 1}], got {sorted(set(outside.tolist()))}"
            )

    def stack_scores(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Scores of classes, ``gt_score`` of each sample, shape (B, num_classes), float32.

        Raises:
            ValueError: If a sample has scores of another number of classes.
        """
        scores = [sample.gt_score for sample in data_samples]
        shapes = {tuple(score.shape) for score in scores}
        if shapes != {(self.num_classes,)}:
            raise ValueError(
                f"{type(self).__name__}(num_classes={self.num_classes}) expects a gt_score of "
                f"{self.num_classes} classes, got shapes {sorted(shapes)}"
            )
        return torch.stack(scores).to(device, torch.float32)
