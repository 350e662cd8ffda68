"""Contract of an auxiliary target."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class AuxiliaryTarget(ABC):
    """What auxiliary heads learn: encoded once per batch, compared with each head's logits.

    Args:
        num_classes: Classes that the auxiliary heads predict, at least 1.

    Attributes:
        num_queries: Queries that each Cropr module must have: 1, or one per cell of a dense target.

    Raises:
        ValueError: If ``num_classes`` is not a positive integer.
    """

    def __init__(self, num_classes: int) -> None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer, got {num_classes!r}")
        self.num_classes = num_classes
        self.num_queries = 1

    @abstractmethod
    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Turn the data samples of one batch into the target that all modules share.

        Args:
            data_samples: One data sample of the host library per image, B of them.
            device: Where the logits are.

        Returns:
            Target with batch size B, in the form that ``loss`` takes.

        Raises:
            ValueError: If a sample lacks the annotation, or a label is not a class.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of one auxiliary head.

        Args:
            logits: Shape (B, num_classes), or (B, M, num_classes) for M queries; any float dtype.
            target: What ``encode`` returned.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: If logits and target do not belong together.
        """
