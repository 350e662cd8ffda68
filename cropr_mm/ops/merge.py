"""Average tokens that share a slot.

B batch, P prefix tokens, N live patch tokens, K slots, C channels.
"""

import torch
from torch import Tensor

from cropr_mm.structures import Tokens


def merge_tokens(tokens: Tokens, assignment: Tensor, num_slots: int) -> Tokens:
    """Size-weighted mean of the patch tokens of each slot.

    Args:
        tokens: P prefix and N patch tokens; the prefix passes untouched.
        assignment: Slot of each patch token, shape (B, N), int64 in [0, K). Every slot should
            receive a token; an empty one gives a zero token of size 0.
        num_slots: K.

    Returns:
        P + K tokens. ``size`` (B, K) float32 counts the cells behind each one; ``index`` keeps the
        raster id of a slot with a single token and is -1 where several were merged (or none).

    Raises:
        ValueError: If ``assignment`` does not match the patch tokens, or a policy mask is set.
    """
    if assignment.shape != tokens.index.shape:
        raise ValueError(
            f"expected an assignment of shape {tuple(tokens.index.shape)}, "
            f"got {tuple(assignment.shape)}"
        )
    if tokens.policy is not None:
        raise ValueError("expected tokens without a policy mask: masked tokens cannot be merged")
    batch, _, channels = tokens.x.shape
    prefix, patches = tokens.x.split([tokens.num_prefix, assignment.shape[1]], dim=1)
    size = torch.ones_like(assignment, dtype=torch.float32) if tokens.size is None else tokens.size
    new_size = size.new_zeros(batch, num_slots).scatter_add(1, assignment, size)  # (B, K)
    # Sums in float32: half precision loses tokens when many meet in one slot.
    rows = assignment.unsqueeze(-1).expand(-1, -1, channels)
    total = size.new_zeros(batch, num_slots, channels).scatter_add(
        1, rows, patches.float() * size.unsqueeze(-1)
    )
    mean = total / new_size.clamp(min=1).unsqueeze(-1)  # (B, K, C)

    count = torch.zeros_like(assignment[:, :1]).expand(-1, num_slots)
    count = count.scatter_add(1, assignment, torch.ones_like(assignment))
    index = torch.zeros_like(count).scatter_add(1, assignment, tokens.index)
    return Tokens(
        x=torch.cat([prefix, mean.to(tokens.x.dtype)], dim=1),
        index=index.masked_fill(count != 1, -1),
        grid=tokens.grid,
        num_prefix=tokens.num_prefix,
        size=new_size,
    )
