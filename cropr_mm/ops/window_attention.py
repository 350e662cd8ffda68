"""Attention in windows of a model that has prefix tokens (class token, registers).

B batch, P prefix tokens, M patch tokens in whole windows of L, H heads, d channels of a head.
"""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.ops.attention import attention_rows, column_mean


def prefix_window_attention(
    q_BHNd: Tensor,
    k_BHNd: Tensor,
    v_BHNd: Tensor,
    num_prefix: int,
    length: int,
    real: Tensor | None = None,
    needs: Collection[str] = (),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Patches attend to their window and to the prefix; the prefix attends to everything.

    Args:
        q_BHNd: Queries, shape (B, H, N, d) with N = P + M, prefix first.
        k_BHNd: Keys, of the same shape.
        v_BHNd: Values, of the same shape.
        num_prefix: P, at least 1.
        length: L.
        real: Which tokens the prefix sees, shape (N,), bool: windows at the border are filled up.
            None for all.
        needs: Names of attention signals to compute, as fields of ``Signals``.

    Returns:
        Output, shape (B, H, N, d), and signals over all N tokens, by name: (B, N), or (B, N, H)
        for the heads. Of the column mean, queries are the patches of a token's own window; that of
        prefix tokens is 0.
    """
    batch, heads, _, width = q_BHNd.shape
    q, k, v = (_windows(x[:, :, num_prefix:], length) for x in (q_BHNd, k_BHNd, v_BHNd))
    windows = q.shape[1]
    k, v = (
        torch.cat([x[:, None, :, :num_prefix].expand(-1, windows, -1, -1, -1), own], dim=3)
        for x, own in ((k_BHNd, k), (v_BHNd, v))
    )  # (B, windows, H, P + L, d)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    patches = F.scaled_dot_product_attention(q, k, v)
    patches = patches.view(batch, windows, heads, length, width).transpose(1, 2).flatten(2, 3)
    front = q_BHNd[:, :, :num_prefix]
    mask = None if real is None else real[None, None, None]
    prefix = F.scaled_dot_product_attention(front, k_BHNd, v_BHNd, attn_mask=mask)
    signals: dict[str, Tensor] = {}
    if "cls_row" in needs or "cls_heads" in needs:
        bias = None
        if real is not None:
            bias = torch.zeros_like(real, dtype=torch.float32).masked_fill(~real, float("-inf"))
        row = attention_rows(front[:, :, :1], k_BHNd, bias)[:, :, 0]  # (B, H, N)
        signals |= {"cls_row": row.mean(dim=1), "cls_heads": row.transpose(1, 2)}
    if "column_mean" in needs or "column_heads" in needs:
        with torch.no_grad():
            column = column_mean(q, k, None)[:, :, num_prefix:]  # (B * windows, H, L)
        column = column.transpose(1, 2).reshape(batch, -1, heads)  # (B, M, H)
        column = F.pad(column, (0, 0, num_prefix, 0))
        signals |= {"column_mean": column.mean(dim=2), "column_heads": column}
    found = {name: signal for name, signal in signals.items() if name in needs}
    return torch.cat([prefix, patches], dim=2), found


def _windows(x_BHMd: Tensor, length: int) -> Tensor:
    """Patches by window, shape (B, windows, H, L, d)."""
    return x_BHMd.unflatten(2, (-1, length)).transpose(1, 2)
