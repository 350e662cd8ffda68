"""From tokens to what a head reads.

B batch, P prefix tokens, N patch tokens, C channels, h x w patch grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import restore_tokens, zero_padded_map


def make_output(
    tokens: Tokens, dropped: Sequence[Tokens], out_type: str, norm: nn.Module, norm_after_pool: bool
) -> Tensor:
    """One output of the encoder.

    Args:
        tokens: Live tokens.
        dropped: Dropped tokens; maps have every patch, pooled outputs the live ones.
        out_type: What to make, see :class:`CroprViT`. Means weight a token by its size.
        norm: Last normalization over channels.
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
    full = restore_tokens(tokens, dropped, None)
    if out_type == "raw":
        return norm(full.x)
    patches = norm(full.x[:, full.num_prefix :])
    return patches.transpose(1, 2).unflatten(2, full.grid).contiguous()


def make_exit_map(tokens: Tokens, dropped: Sequence[Tokens], num_classes: int) -> Tensor:
    """Where tokens left the model for good, and with which class logits.

    Returns:
        Logits and, in the last channel, 1 for the cells that have any, 0 elsewhere:
        (B, num_classes + 1, h, w).
    """
    exits = tokens.x.new_zeros(tokens.x.shape[0], num_classes + 1, *tokens.grid)
    for part in (tokens, *dropped):  # each token is in one of them
        if part.exit is not None:
            exits = exits + zero_padded_map(part.exit.to(exits.dtype), part.index, part.grid)
    return exits


def _mean(tokens: Tokens, x: Tensor, with_prefix: bool) -> Tensor:
    """Mean of features (B, P + N, C) over live tokens; a merged one counts as its cells."""
    prefix = tokens.num_prefix
    if tokens.size is None and tokens.policy is None:
        return (x if with_prefix else x[:, prefix:]).mean(dim=1)
    weight = torch.ones_like(tokens.index, dtype=torch.float32)
    for factor in (tokens.size, tokens.policy):
        if factor is not None:
            weight = weight * factor
    weight = F.pad(weight, (prefix, 0), value=float(with_prefix)).unsqueeze(-1)
    # At least one: in training, a mask may leave an image without any patch.
    return ((x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).to(x.dtype)
