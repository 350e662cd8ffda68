"""How Cropr's queries look at tokens: one form to aggregate in training, another to score.

B batch, S sequence length (prefix and patches), M queries, C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class SimpleAttention(nn.Module):
    """One head without projections: the tokens themselves are keys and values.

    Args:
        embed_dim: C.

    Attributes:
        scale: Factor of logits before the softmax.

    Source: the Cropr paper and its released code.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.scale = embed_dim**-0.5

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """Softmax-weighted mean of the tokens for each query.

        Args:
            queries: Shape (1, M, C).
            x: Tokens, prefix included, shape (B, S, C).

        Returns:
            Shape (B, M, C).
        """
        # Queries are scaled, not the product, which half precision may not hold.
        logits = queries * self.scale @ x.transpose(1, 2)  # (B, M, S)
        return logits.softmax(dim=-1) @ x

    def score(self, query: Tensor, x: Tensor) -> Tensor:
        """Unscaled logits of one query, shape (C,), on tokens of shape (B, S, C): (B, S)."""
        return x @ query

    def collapse(self, query: Tensor) -> Tensor:
        """Vector of shape (C,) whose product with tokens ranks them as ``score`` does."""
        return query


class MultiHeadAttention(nn.Module):
    """Several heads on normalized tokens with projections, the 'mha' of the paper's ablation.

    Args:
        embed_dim: C.
        num_heads: Divides C.

    Attributes:
        scale: Factor of logits before the softmax.

    Raises:
        ValueError: If the heads do not divide the channels.

    Source: the Cropr paper, table 4a, and its released code: no biases but that of the output.
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"expected heads that divide {embed_dim} channels, got {num_heads}")
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.q = nn.Linear(embed_dim, embed_dim, bias=False)
        self.k = nn.Linear(embed_dim, embed_dim, bias=False)
        self.v = nn.Linear(embed_dim, embed_dim, bias=False)
        self.proj = nn.Linear(embed_dim, embed_dim) if num_heads > 1 else nn.Identity()

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """As :meth:`SimpleAttention.forward`, by heads."""
        x = self.norm(x)
        q = self._by_head(self.q(queries)).expand(x.shape[0], -1, -1, -1)
        y = F.scaled_dot_product_attention(q, self._by_head(self.k(x)), self._by_head(self.v(x)))
        return self.proj(y.transpose(1, 2).flatten(2))

    def _by_head(self, y: Tensor) -> Tensor:
        return y.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (., heads, ., C / heads)

    def score(self, query: Tensor, x: Tensor) -> Tensor:
        """As :meth:`SimpleAttention.score`, in float32, summed over heads: keys side by side."""
        weight, bias = self.norm.weight.float(), self.norm.bias.float()
        keys = F.linear(F.layer_norm(x, x.shape[-1:], weight, bias, EPS), self.k.weight.float())
        return keys @ F.linear(query, self.q.weight.float())

    def collapse(self, query: Tensor) -> Tensor:
        """As :meth:`SimpleAttention.collapse`, for tokens normalized without weight and bias.

        The bias of the norm adds the same to every score.
        """
        projected = F.linear(query, self.q.weight.float())
        return (projected @ self.k.weight.float()) * self.norm.weight.float()
