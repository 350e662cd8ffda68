"""Segmentation head for encoders that tokens leave early."""

import torch
from mmseg.models.decode_heads import FCNHead
from torch import Tensor

from cropr_mm.registry import MODELS


@MODELS.register_module()
class EarlyExitHead(FCNHead):
    """FCNHead whose cells keep the logits with which their token left the encoder.

    Takes what :class:`cropr_mm.CroprViT` returns with the reducer ``DToP``: features, then a map of
    logits (B, num_classes + 1, h, w) whose last channel says which cells have any. Arguments are
    those of FCNHead, for the features.

    Raises:
        ValueError: In forward, if the last input has no such logits.

    Source: Tang et al., Dynamic token pruning (arXiv 2308.01045).
    """

    reads_exits = True  # preflight refuses a head without, where tokens exit

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits of all cells, shape (B, num_classes, h, w)."""
        if self.in_index in (-1, len(inputs) - 1):
            raise ValueError(
                "EarlyExitHead expected in_index to name the features, such as 0, and not the last "
                f"input, which are the exit logits; got {self.in_index} of {len(inputs)} inputs"
            )
        logits, exits = super().forward(inputs), inputs[-1]
        expected = (logits.shape[0], self.out_channels + 1, *logits.shape[2:])
        if exits.shape != expected:
            raise ValueError(
                f"EarlyExitHead expected exit logits of shape {expected} behind the features, got "
                f"{tuple(exits.shape)}; the encoder needs the reducer DToP with as many classes"
            )
        return torch.where(exits[:, -1:] > 0, exits[:, :-1].to(logits.dtype), logits)
