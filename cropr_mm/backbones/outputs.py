"""From tokens to what a head reads.

B batch, P prefix tokens, N patch tokens, C channels, h x w patch grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cropr_mm.ops.restore import restore_tokens
from cropr_mm.structures import Tokens


def make_output(
    tokens: Tokens, parked: Sequence[Tokens], out_type: str, norm: nn.Module, norm_after_pool: bool
) -> Tensor:
    """One output of the encoder.

    Args:
        tokens: Live tokens.
        parked: Dropped tokens; maps have every patch, pooled outputs the live ones.
        out_type: What to make, see :class:`CroprViT`. Means weight a token by its size.
        norm: Last normalisation over channels.
        norm_after_pool: Whether it acts on the mean instead of on each token.

    Returns:
        'featmap': (B, C, h, w). 'raw': (B, P + h * w, C). Else (B, C).
    """
    if out_type == "cls_token":
        return norm(tokens.x[:, 0])
    if out_type in ("avg_featmap", "avg_all"):
        x = tokens.x if norm_after_pool else norm(tokens.x)
        pooled = _mean(tokens, x, with_prefix=out_type == "avg_all")
        return norm(pooled) if norm_after_pool else pooled
    full = restore_tokens(tokens, parked, None)
    if out_type == "raw":
        return norm(full.x)
    patches = norm(full.x[:, full.num_prefix :])
    return patches.transpose(1, 2).unflatten(2, full.grid).contiguous()


def _mean(tokens: Tokens, x: Tensor, with_prefix: bool) -> Tensor:
    """Mean of features (B, P + N, C) over tokens; a merged token counts as the cells behind it."""
    prefix = tokens.num_prefix
    if tokens.size is None:
        return (x if with_prefix else x[:, prefix:]).mean(dim=1)
    ones = tokens.size.new_ones(x.shape[0], prefix)
    weight = torch.cat([ones if with_prefix else 0 * ones, tokens.size], dim=1).unsqueeze(-1)
    return ((x * weight).sum(dim=1) / weight.sum(dim=1)).to(x.dtype)
