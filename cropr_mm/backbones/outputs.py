"""From tokens to what a head reads.

B batch, P prefix tokens, N patch tokens, C channels, h x w patch grid.
"""

from collections.abc import Sequence

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
        out_type: What to make, see :class:`CroprViT`.
        norm: Last normalisation over channels.
        norm_after_pool: Whether it acts on the mean instead of on each token.

    Returns:
        'featmap': (B, C, h, w). 'raw': (B, P + h * w, C). Else (B, C).
    """
    if out_type == "cls_token":
        return norm(tokens.x[:, 0])
    if out_type in ("avg_featmap", "avg_all"):
        x = tokens.x[:, tokens.num_prefix :] if out_type == "avg_featmap" else tokens.x
        return norm(x.mean(dim=1)) if norm_after_pool else norm(x).mean(dim=1)
    full = restore_tokens(tokens, parked, None)
    if out_type == "raw":
        return norm(full.x)
    patches = norm(full.x[:, full.num_prefix :])
    return patches.transpose(1, 2).unflatten(2, full.grid).contiguous()
