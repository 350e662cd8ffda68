"""PatchMerger: slots that attend to the tokens.

B batch, N live patch tokens, K slots, C channels.
"""

import torch
from torch import Tensor, nn

from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.soft_merger import SoftMerger
from cropr_mm.registry import MODELS


@MODELS.register_module()
class PatchMerger(SoftMerger):
    """Each slot is a mean of the normalized tokens, weighted by their product with a query.

    Args:
        embed_dim: C, given by the backbone.
        num_slots: K, given by the backbone.
        scaled: Divide products by the square root of C, as one port does; without it, as published,
            weights start nearly one-hot.

    Source: Renggli et al., Learning to Merge Tokens in Vision Transformers, arXiv 2202.12015.
    """

    def __init__(self, embed_dim: int, num_slots: int, scaled: bool = False) -> None:
        super().__init__(embed_dim, num_slots)
        self.norm = nn.LayerNorm(embed_dim)
        self.queries = nn.Parameter(torch.randn(num_slots, embed_dim))
        self.scale = embed_dim**-0.5 if scaled else 1.0

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the tokens in each slot by learned queries, and what is mixed."""
        z = self.norm(x)
        with without_autocast(x.device.type):  # unscaled logits are large
            logits = (self.queries.float() * self.scale) @ z.float().transpose(1, 2)  # (B, K, N)
        return logits.softmax(dim=2).to(z.dtype), z
