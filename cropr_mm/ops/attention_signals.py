"""What reducers read about the single tokens of global attention.

B batch, H heads, N tokens, M queries, d channels of a head.
"""

import torch
from torch import Tensor

from cropr_mm.ops.attention import attention_rows, column_mean

KEY_SIGNALS = frozenset({"column_mean", "column_heads", "keys", "values"})
CLS_SIGNALS = frozenset({"cls_row", "cls_heads"})


def attention_signals(
    q_BHMd: Tensor,
    k_BHNd: Tensor,
    v_BHNd: Tensor,
    needs: frozenset[str],
    live: Tensor | None = None,
) -> dict[str, Tensor]:
    """Signals by name, over the keys; see :class:`cropr_mm.structures.Signals`.

    Args:
        q_BHMd: Queries, shape (B, H, M, d), the class token first where its row is asked for.
        k_BHNd: Keys, shape (B, H, N, d).
        v_BHNd: Values, shape (B, H, N, d).
        needs: Names of signals; others than those of this module are left out.
        live: Tokens that are alive, shape (B, N), bool, or None for all; the others are no keys,
            and no queries of the column mean (M is N then).

    Returns:
        'keys' (B, N, d), 'values' (B, N, H * d), 'cls_row' and 'column_mean' (B, N), 'cls_heads'
        and 'column_heads' (B, N, H), as far as ``needs`` names them.
    """
    signals = {}
    bias = None
    if live is not None:
        bias = torch.zeros_like(live, dtype=torch.float32).masked_fill(~live, -torch.inf)
        bias = bias[:, None, None]  # (B, 1, 1, N)
    if "keys" in needs:
        signals["keys"] = k_BHNd.mean(dim=1)
    if "values" in needs:
        signals["values"] = v_BHNd.transpose(1, 2).flatten(2)
    if needs & CLS_SIGNALS:
        heads = attention_rows(q_BHMd[:, :, :1], k_BHNd, bias)[:, :, 0]  # (B, H, N)
        signals |= {"cls_row": heads.mean(dim=1), "cls_heads": heads.transpose(1, 2)}
    if needs & {"column_mean", "column_heads"}:
        with torch.no_grad():  # a graph would hold the M x N matrix
            whole = None if bias is None else bias.expand(-1, -1, q_BHMd.shape[2], -1)
            heads = column_mean(q_BHMd, k_BHNd, whole, live)  # (B, H, N)
        signals |= {"column_mean": heads.mean(dim=1), "column_heads": heads.transpose(1, 2)}
    return {name: signal for name, signal in signals.items() if name in needs}
