"""How much each token counts as a key of attention."""

import torch
import torch.nn.functional as F

from cropr_mm.layers.attention import Geometry
from cropr_mm.structures import Tokens
from cropr_mm.tokens.policy import is_soft, whole_policy


def weigh_tokens(geometry: Geometry, tokens: Tokens, proportional: bool) -> Geometry:
    """Geometry of global attention in which tokens count by size or policy.

    Args:
        geometry: Where the tokens lie.
        tokens: Live tokens, with sizes or a policy.
        proportional: Whether a merged token counts as the cells behind it.
    """
    policy = key_bias = None
    if proportional:
        assert tokens.size is not None, "proportional attention is about sizes"
        key_bias = F.pad(tokens.size.log(), (tokens.num_prefix, 0))
    if is_soft(tokens):
        policy = whole_policy(tokens)
    elif tokens.policy is not None:
        live = whole_policy(tokens) > 0
        bias = torch.zeros_like(live, dtype=torch.float32) if key_bias is None else key_bias
        key_bias = bias.masked_fill(~live, -float("inf"))
    return Geometry(
        rope=geometry.rope, relative=geometry.relative, key_bias=key_bias, policy=policy
    )
