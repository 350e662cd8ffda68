"""Attention signals and biases: what reducers and relative positions add to fused attention.

B batch (or batch times windows), H heads, N tokens, d channels of a head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-6
_ROWS_AT_ONCE = 1024  # bounds the attention matrix that the column mean builds


def _scaled_products(q_BHMd: Tensor, k_BHNd: Tensor) -> Tensor:
    """Scaled products of queries and keys, shape (B, H, M, N), float32."""
    # Queries are scaled, not the product, which half precision may not hold.
    scaled = q_BHMd * q_BHMd.shape[-1] ** -0.5
    return (scaled @ k_BHNd.transpose(-2, -1)).float()


def attention_rows(q_BHMd: Tensor, k_BHNd: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention of the given queries, float32.

    Args:
        q_BHMd: Queries, shape (B, H, M, d).
        k_BHNd: Keys, shape (B, H, N, d).
        bias: Added to the scaled logits, shape broadcastable to (B, H, M, N), or None.

    Returns:
        Attention, shape (B, H, M, N), float32.
    """
    logits = _scaled_products(q_BHMd, k_BHNd)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1)


def masked_attention(
    q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, policy: Tensor, bias: Tensor | None
) -> Tensor:
    """Self-attention to live tokens, with a gradient for the decision who lives.

    A token always attends to itself.

    Args:
        q_BHNd: Queries, shape (B, H, N, d).
        k_BHNd: Keys, of the same shape.
        v_BHNd: Values, of the same shape.
        policy: 1 where a token is live, else 0, shape (B, N), float32.
        bias: Added to the scaled logits, shape broadcastable to (B, H, N, N), or None.

    Returns:
        Output, shape (B, H, N, d), dtype of the values.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), equations 9 to 11, with the released
    code's epsilon of 1e-6, which keeps the gradient of dead columns finite.
    """
    logits = _scaled_products(q_BHNd, k_BHNd)
    if bias is not None:
        logits = logits + bias
    num_tokens = logits.shape[-1]
    itself = torch.eye(num_tokens, device=logits.device)
    gate = policy[:, None, None]  # (B, 1, 1, N)
    weight = (logits - logits.amax(dim=-1, keepdim=True).detach()).exp()
    weight = weight * (gate + (1 - gate) * itself)
    attention = (weight + _EPS / num_tokens) / (weight.sum(dim=-1, keepdim=True) + _EPS)
    return attention.to(v_BHNd.dtype) @ v_BHNd


def partly_masked_attention(
    q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor, visible: Tensor
) -> Tensor:
    """Self-attention in which the first tokens see some tokens only, and all others see all.

    The mask has as many rows as it says something about, and the rest takes the fastest kernel.

    Args:
        q_BHNd: Queries, shape (B, H, N, d).
        k_BHNd: Keys, of the same shape.
        v_BHNd: Values, of the same shape.
        visible: True where one of the first Q tokens attends to a token, at least one in each row,
            shape (B, Q, N), bool.

    Returns:
        Output, shape (B, H, N, d).
    """
    rows = visible.shape[1]
    first = F.scaled_dot_product_attention(
        q_BHNd[:, :, :rows], k_BHNd, v_BHNd, attn_mask=visible.unsqueeze(1)
    )
    others = F.scaled_dot_product_attention(q_BHNd[:, :, rows:], k_BHNd, v_BHNd)
    return torch.cat([first, others], dim=2)


def column_mean(
    q_BHNd: Tensor, k_BHNd: Tensor, bias: Tensor | None, live: Tensor | None = None
) -> Tensor:
    """Attention that each token receives from a head, mean over queries.

    The attention matrix is built in strips of queries, so memory grows with N, not N**2.

    Args:
        q_BHNd: Queries, shape (B, H, M, d).
        k_BHNd: Keys, shape (B, H, N, d).
        bias: Added to the scaled logits, shape (B, H, M, N), or None.
        live: Queries that count, shape (B, M), bool, or None for all.

    Returns:
        Mean attention, shape (B, H, N), float32; each row sums to one.
    """
    num_queries = q_BHNd.shape[2]
    count: Tensor | int = num_queries if live is None else live.sum(dim=1)[:, None, None]
    total = k_BHNd.new_zeros(k_BHNd.shape[:3], dtype=torch.float32)
    for start in range(0, num_queries, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        strip = attention_rows(
            q_BHNd[:, :, rows], k_BHNd, None if bias is None else bias[:, :, rows]
        )
        if live is not None:
            strip = strip * live[:, None, rows, None]
        total = total + strip.sum(dim=2)
    return total / count


def relative_position_bias(
    q_BHNd: Tensor, tables: tuple[Tensor, Tensor], coordinates: tuple[Tensor, Tensor]
) -> Tensor:
    """Decomposed relative position bias for tokens at any coordinates.

    Args:
        q_BHNd: Queries, not scaled, shape (B, H, N, d).
        tables: For rows and for columns, shape (2 * extent - 1, d): entry ``extent - 1 + dy``
            belongs to a query that lies dy below the key.
        coordinates: Row and column of each token, in patches, each of shape (1 or B, N), int64.

    Returns:
        Bias, shape (B, H, N, N), dtype of the queries.

    Source: ViTDet (arXiv 2203.16527) after MViTv2; here for any subset of the grid's tokens.
    """
    bias = 0
    for axis in (0, 1):
        table, position = tables[axis], coordinates[axis]
        offset = position[:, :, None] - position[:, None, :] + table.shape[0] // 2  # (1 or B, N, N)
        scores = q_BHNd @ table.to(q_BHNd.dtype).t()  # (B, H, N, 2 * extent - 1)
        index = offset[:, None].expand(*q_BHNd.shape[:2], -1, -1)
        bias = bias + scores.gather(-1, index)
    return bias


def resize_relative_table(table: Tensor, extent: int) -> Tensor:
    """Linear interpolation of a relative position table to another extent.

    Args:
        table: Shape (2 * old extent - 1, d).
        extent: Rows or columns of the new grid, in patches.

    Returns:
        Table of shape (2 * extent - 1, d).
    """
    if table.shape[0] == 2 * extent - 1:
        return table
    resized = F.interpolate(table.t()[None].float(), size=2 * extent - 1, mode="linear")
    return resized[0].t().to(table.dtype)
