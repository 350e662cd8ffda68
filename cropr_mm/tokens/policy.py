"""Tokens that are there but not alive: what a policy means outside of attention.

B batch, P prefix tokens, N patch tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.structures import Tokens, with_features


def is_soft(tokens: Tokens) -> bool:
    """Whether the policy is a training mask, with a gradient, of tokens that would be dropped."""
    return tokens.policy is not None and tokens.policy.dtype == torch.float32


def whole_policy(tokens: Tokens) -> Tensor:
    """Policy with the prefix, which is always alive, shape (B, P + N), float32."""
    assert tokens.policy is not None, "asked only where there is one"
    return F.pad(tokens.policy.float(), (tokens.num_prefix, 0), value=1.0)


def advance(tokens: Tokens, x: Tensor) -> Tokens:
    """The tokens behind a layer, of features (B, P + N, C); dead ones stay as they were.

    Under a training mask all move on: a masked token shows what it would be worth if it were kept.
    """
    if tokens.policy is None or is_soft(tokens):
        return with_features(tokens, x)
    live = whole_policy(tokens).unsqueeze(-1) > 0
    return with_features(tokens, torch.where(live, x, tokens.x))
