"""Put every token back into its cell of the grid.

B batch, P prefix tokens, N tokens of the whole grid, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cropr_mm.ops.gather import inverse_permutation, take_tokens
from cropr_mm.structures import Tokens


def restore_tokens(kept: Tokens, parked: Sequence[Tokens], order: Tensor | None) -> Tokens:
    """Join live and parked tokens and bring them into the order of the whole grid.

    Args:
        kept: Live tokens, prefix first.
        parked: Tokens that left at each reduction, without prefix.
        order: Raster id of each place in the result, shape (N,), int64: the token order of the
            model. None means ascending raster ids.

    Returns:
        P prefix tokens of ``kept`` and all N patch tokens of the grid, with ``index`` equal to
        ``order``.

    Raises:
        ValueError: If there are not as many tokens as cells, grids differ, or a parked record has
            prefix tokens.

    Every cell must occur once; values are not checked, that would stall the device. Tokens without
    a cell (index -1) must be removed first.
    """
    height, width = kept.grid
    for left in parked:
        if left.grid != kept.grid or left.num_prefix:
            raise ValueError(
                f"expected parked tokens of grid {kept.grid} without prefix, "
                f"got grid {left.grid} with {left.num_prefix} prefix tokens"
            )
    counts = [part.index.shape[1] for part in (kept, *parked)]
    num_tokens = sum(counts)
    if num_tokens != height * width:
        raise ValueError(
            f"expected {height * width} tokens for the {height} x {width} grid, got {num_tokens}: "
            f"{counts[0]} kept, {counts[1:]} parked"
        )
    joined = _join([kept, *parked]) if parked else kept
    place = inverse_permutation(joined.index)  # (B, N): raster id -> position
    if order is not None:
        if order.shape != (num_tokens,):
            raise ValueError(
                f"expected an order of shape ({num_tokens},), got {tuple(order.shape)}"
            )
        place = place.index_select(1, order)
    return take_tokens(joined, place, with_prefix=True)


def _join(parts: Sequence[Tokens]) -> Tokens:
    """Concatenate along the sequence; the first part brings the prefix."""
    size = policy = None
    if any(part.size is not None for part in parts):
        size = torch.cat([_or_ones(p.size, p.index, torch.float32) for p in parts], dim=1)
    if any(part.policy is not None for part in parts):
        policy = torch.cat([_or_ones(p.policy, p.index, torch.bool) for p in parts], dim=1)
    return Tokens(
        x=torch.cat([part.x for part in parts], dim=1),
        index=torch.cat([part.index for part in parts], dim=1),
        grid=parts[0].grid,
        num_prefix=parts[0].num_prefix,
        size=size,
        policy=policy,
    )


def _or_ones(value: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.ones_like(like, dtype=dtype) if value is None else value
