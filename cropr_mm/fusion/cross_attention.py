"""Fusion after the last block: learned queries of the grid read the tokens.

B batch, P prefix tokens, S tokens that are read, N cells of the grid, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import Mlp, resample_abs_pos_embed
from torch import Tensor, nn

from cropr_mm.fusion.base import Fusion
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.merge import NO_PATCH_FIELDS
from cropr_mm.tokens.policy import whole_policy
from cropr_mm.tokens.restore import restore_tokens


class CrossAttentionBlock(nn.Module):
    """Pre-norm block whose queries attend to other tokens.

    Args:
        embed_dim: C.
        num_heads: Attention heads.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.norm_memory = nn.LayerNorm(embed_dim, eps=1e-6)
        self.q = nn.Linear(embed_dim, embed_dim)
        self.kv = nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = Mlp(embed_dim, 4 * embed_dim)

    def forward(self, x: Tensor, memory: Tensor, live: Tensor | None = None) -> Tensor:
        """Update queries (1 or B, N, C) from tokens (B, S, C), live ones (B, S): (B, N, C)."""
        q = self.q(self.norm1(x)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        kv = self.kv(self.norm_memory(memory)).unflatten(2, (2, self.num_heads, -1))
        k, v = kv.transpose(1, 3).unbind(2)  # (B, heads, S, C / heads)
        mask = None if live is None else live[:, None, None]  # (B, 1, 1, S)
        y = F.scaled_dot_product_attention(q.expand(k.shape[0], -1, -1, -1), k, v, attn_mask=mask)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class CrossAttentionFusion(Fusion):
    """One learned query per cell reads the tokens in one new block, then a linear layer.

    At another image size queries are resampled as positions are.

    Args:
        embed_dim: C, given by the backbone.
        num_heads: Attention heads, given by the backbone.
        grid: Native patch grid (h, w), given by the backbone.
        concat: Whether queries read the pruned tokens too; otherwise these are lost.

    Source: the Cropr paper, table 5 ('Cross-Attn', '+ Concat'). Its parameters and GMACs fit one
    block with a GELU MLP of ratio 4 and one more linear layer on the grid, which the paper does
    not mention.
    """

    site = "after"
    learned = True

    def __init__(
        self, embed_dim: int, num_heads: int, grid: tuple[int, int], concat: bool = False
    ) -> None:
        super().__init__()
        self.grid = grid
        self.concat = concat
        self.queries = nn.Parameter(torch.empty(1, grid[0] * grid[1], embed_dim))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.block = CrossAttentionBlock(embed_dim, num_heads)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Make every cell from learned queries that attend to the tokens."""
        memory = restore_tokens(kept, dropped, order) if self.concat else kept
        live = None if memory.policy is None else whole_policy(memory) > 0
        queries = resample_abs_pos_embed(
            self.queries, new_size=kept.grid, old_size=self.grid, num_prefix_tokens=0
        )
        cells = torch.arange(queries.shape[1], device=queries.device) if order is None else order
        patches = self.proj(self.block(queries.index_select(1, cells), memory.x, live))
        x = torch.cat([kept.x[:, : kept.num_prefix], patches.to(kept.x.dtype)], dim=1)
        index = cells.expand(x.shape[0], -1)
        return kept.replace(**{**NO_PATCH_FIELDS, "x": x, "index": index, "source": None})
