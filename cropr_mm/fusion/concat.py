"""Fusion after the last block: pruned tokens as they left, or updated by one new block.

B batch, P prefix tokens, N cells of the grid, C channels.
"""

from collections.abc import Sequence
from functools import partial

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from cropr_mm.fusion.base import Fusion
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import restore_tokens


@MODELS.register_module()
class TokenConcat(Fusion):
    """Put pruned tokens back behind the last block, with the features they left with.

    Maps are those of a model without fusion; means see all tokens.

    Source: the Cropr paper, table 5, after Liu et al. (DoViT).
    """

    site = "after"

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Put dropped tokens back into their cells."""
        return restore_tokens(kept, dropped, order)


@MODELS.register_module()
class SelfAttentionConcat(Fusion):
    """:class:`TokenConcat`, then one new self-attention block and a linear layer on all tokens.

    Args:
        embed_dim: C, given by the backbone.
        num_heads: Attention heads, given by the backbone.
        grid: Native patch grid (h, w), given by the backbone.

    Source: the Cropr paper, table 5 ('MHSA + Concat'). Its parameters and GMACs fit one block with
    a GELU MLP of ratio 4 and one more linear layer, which the paper does not mention.
    """

    site = "after"
    learned = True

    def __init__(self, embed_dim: int, num_heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.block = Block(embed_dim, num_heads, qkv_bias=True, norm_layer=norm)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Put dropped tokens back and let all tokens attend to each other."""
        full = restore_tokens(kept, dropped, order)
        return full.replace(x=self.proj(self.block(full.x)))
