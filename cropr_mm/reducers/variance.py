"""Pruning by pixel variance, a baseline that looks at the image only."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens


@MODELS.register_module()
class VariancePruner(TokenPruner):
    """Drop the patches whose pixels vary least, in the mean over channels.

    Args:
        embed_dim: C, given by the backbone.
        std: Standard deviations by which the data preprocessor divides the channels, in the order
            of the image that the model gets. Given, the variance is that of raw pixels; by default
            that of normalized ones.

    Raises:
        ValueError: If a deviation is not positive, or there is not one for each channel.
    """

    needs = frozenset({"variance"})

    def __init__(self, embed_dim: int, std: Sequence[float] | None = None) -> None:
        super().__init__(embed_dim)
        if std is not None and not all(value > 0 for value in std):
            raise ValueError(f"expected positive standard deviations, got {list(std)}")
        self.std = None if std is None else tuple(std)

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Pixel variance of each patch, shape (B, N)."""
        variance = signals.variance
        assert variance is not None, "needs names it"
        if self.std is None:
            return variance.mean(dim=2)
        if len(self.std) != variance.shape[2]:
            raise ValueError(f"expected std of {variance.shape[2]} channels, got {self.std}")
        std = torch.tensor(self.std, dtype=torch.float32, device=variance.device)
        return (variance * std.square()).mean(dim=2)
