"""Attention-to-mask: a query for each class says where it is, and whether it is there at all.

B batch, N patch tokens, K classes, C channels of tokens, D of queries.
"""

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from cropr_mm.layers.attention import Attention, Geometry
from cropr_mm.layers.initial import reset_linear
from cropr_mm.ops.precision import without_autocast

_HEAD_DIM = 64
_DEPTH = 3


class MaskDecoderLayer(nn.Module):
    """Post-norm layer: queries attend to each other, then to the tokens.

    Args:
        dim: D.
        num_heads: Divides D.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, act_layer=nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, memory: Tensor, live: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update the queries.

        Args:
            queries: Shape (B, K, D).
            memory: Tokens, shape (B, N, D).
            live: Tokens that are seen, shape (B, N), bool, or None for all.

        Returns:
            Queries of the same shape, and the attention logits of each token for each class, mean
            over heads, shape (B, N, K).
        """
        queries = self.norm1(queries + self.self_attn(queries, Geometry())[0])
        q, (k, v) = self.q(queries), self.kv(memory).chunk(2, dim=-1)
        mask = None if live is None else live[:, None, None]  # (B, 1, 1, N)
        y = F.scaled_dot_product_attention(
            self._by_head(q), self._by_head(k), self._by_head(v), attn_mask=mask
        )
        queries = self.norm2(queries + self.proj(y.transpose(1, 2).flatten(2)))
        # The products of all heads add up to that of the whole vectors.
        scale = (q.shape[-1] // self.num_heads) ** -0.5 / self.num_heads
        return self.norm3(queries + self.mlp(queries)), k @ (q * scale).transpose(1, 2)

    def _by_head(self, y: Tensor) -> Tensor:
        return y.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, ., D / heads)


class MaskClassifier(nn.Module):
    """Masks and presence of classes, from live tokens only.

    Args:
        embed_dim: C.
        num_classes: K.
        mask_dim: D; heads have 64 channels. Of three decoder layers the logits of the last one are
            the masks.

    Raises:
        ValueError: If ``mask_dim`` is neither below 64 nor a multiple of it.

    Source: the heads of Tang et al., Dynamic token pruning (arXiv 2308.01045), and their code,
    mmseg_custom/decode_heads/prune_head.py (SegViT's decoder). There 'present' and 'absent' have a
    logit each, of which only the difference counts: the one logit here. The published dropout of
    0.1 is left out.
    """

    def __init__(self, embed_dim: int, num_classes: int, mask_dim: int = 384) -> None:
        super().__init__()
        if mask_dim < 1 or (mask_dim > _HEAD_DIM and mask_dim % _HEAD_DIM):
            raise ValueError(
                f"expected mask_dim below {_HEAD_DIM} or a multiple of it, got {mask_dim}"
            )
        self.proj = nn.Linear(embed_dim, mask_dim)
        self.norm = nn.LayerNorm(mask_dim)
        self.queries = nn.Parameter(torch.randn(1, num_classes, mask_dim))
        heads = max(1, mask_dim // _HEAD_DIM)
        self.layers = nn.ModuleList(MaskDecoderLayer(mask_dim, heads) for _ in range(_DEPTH))
        self.presence = nn.Linear(mask_dim, 1)
        reset_linear(self)

    def forward(self, x: Tensor, live: Tensor | None) -> tuple[Tensor, Tensor]:
        """Look for every class among the tokens, at the precision of the weights.

        Args:
            x: Patch tokens, shape (B, N, C).
            live: Those that are there, shape (B, N), bool, or None for all.

        Returns:
            Mask logits, shape (B, N, K), which of other tokens mean nothing, and presence logits,
            shape (B, K).
        """
        with without_autocast(x.device.type):  # it decides who exits
            memory = self.norm(self.proj(x.to(self.proj.weight.dtype)))
            queries, masks = self.queries.repeat(x.shape[0], 1, 1), memory
            for layer in self.layers:
                queries, masks = layer(queries, memory, live)
            return masks, self.presence(queries).squeeze(-1)
