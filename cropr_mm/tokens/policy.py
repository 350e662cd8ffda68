"""Tokens that are there but not alive: what a policy means outside of attention.

B batch, P prefix tokens, N patch tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.structures import Tokens


def is_soft(tokens: Tokens) -> bool:
    """Whether the policy is a training mask, with a gradient, of tokens that would be dropped."""
    return tokens.policy is not None and tokens.policy.dtype == torch.float32


def has_every_cell(tokens: Tokens) -> bool:
    """Whether each cell of the grid has its token, in raster order, and all of them are alive."""
    return tokens.policy is None and tokens.index.shape[1] == tokens.grid[0] * tokens.grid[1]


def whole_policy(tokens: Tokens) -> Tensor:
    """Policy with the prefix, which is always alive, shape (B, P + N), float32."""
    assert tokens.policy is not None, "asked only where there is one"
    return F.pad(tokens.policy.float(), (tokens.num_prefix, 0), value=1.0)


def update_live(tokens: Tokens, x: Tensor) -> Tokens:
    """Give the live tokens the features that a layer returned; dead tokens keep theirs.

    Under a training mask all tokens are updated: a masked token shows what it would be worth if it
    were kept.

    Args:
        tokens: Tokens that entered the layer.
        x: Features that left it, shape (B, P + N, C).
    """
    if tokens.policy is None or is_soft(tokens):
        return tokens.replace(x=x)
    live = whole_policy(tokens).unsqueeze(-1) > 0
    return tokens.replace(x=torch.where(live, x, tokens.x))
