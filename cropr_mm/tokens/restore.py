"""Put every token back into its cell of the grid.

B batch, P prefix tokens, N cells of the whole grid, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import inverse_permutation, take_tokens
from cropr_mm.tokens.policy import is_soft


def restore_tokens(kept: Tokens, parked: Sequence[Tokens], order: Tensor | None) -> Tokens:
    """Join live and parked tokens and bring them into the order of the whole grid.

    Tokens without a cell (index -1) are left out. Where tokens were merged, every cell gets a copy
    of what it was merged into. Where they were masked in training, each gets the features that it
    had when it was, as if it had left. Nothing is masked in the result.

    Args:
        kept: Live tokens, prefix first.
        parked: Tokens that left at each reduction, without prefix.
        order: Raster id of each place in the result, shape (N,), int64: the token order of the
            model. None means ascending raster ids.

    Returns:
        P prefix tokens of ``kept`` and all N patch tokens of the grid, with ``index`` equal to
        ``order``.

    Raises:
        ValueError: If there are fewer tokens than cells, grids differ, a parked record has prefix
            tokens, or some tokens were merged and others parked.

    Every cell must occur once; values are not checked, that would stall the device.
    """
    height, width = kept.grid
    num_cells = height * width
    for left in parked:
        if left.grid != kept.grid or left.num_prefix:
            raise ValueError(
                f"expected parked tokens of grid {kept.grid} without prefix, "
                f"got grid {left.grid} with {left.num_prefix} prefix tokens"
            )
    if order is not None and order.shape != (num_cells,):
        raise ValueError(f"expected an order of shape ({num_cells},), got {tuple(order.shape)}")
    if is_soft(kept):
        kept, parked = _unmask(kept, parked), []
    if kept.source is not None:
        place = kept.source
        if parked:
            raise ValueError("expected merged tokens or parked ones, got both")
        kept = Tokens(kept.x, kept.index, kept.grid, kept.num_prefix)
    else:
        counts = [part.index.shape[1] for part in (kept, *parked)]
        if sum(counts) < num_cells:
            raise ValueError(
                f"expected {num_cells} tokens or more for the {height} x {width} grid, "
                f"got {sum(counts)}: {counts[0]} kept, {counts[1:]} parked"
            )
        kept = _join([kept, *parked]) if parked else kept
        place = _place_of_cells(kept.index, num_cells)
    if order is not None:
        place = place.index_select(1, order)
    full = take_tokens(kept, place, with_prefix=True)
    cells = torch.arange(num_cells, device=place.device) if order is None else order
    index = cells.expand_as(place)
    return Tokens(full.x, index, full.grid, full.num_prefix, full.size)


def zero_padded_map(x: Tensor, index: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens in their cells of the grid, and zero in all others.

    Args:
        x: Shape (B, K, C).
        index: Raster id of each token, shape (B, K), int64, each at most once in a row.
        grid: Rows and columns (h, w).

    Returns:
        Shape (B, C, h, w), in memory channels last.
    """
    zeros = x.new_zeros(x.shape[0], grid[0] * grid[1], x.shape[2])
    full = zeros.scatter(1, index.unsqueeze(-1).expand_as(x), x)
    return full.transpose(1, 2).unflatten(2, grid)


def _unmask(kept: Tokens, masked: Sequence[Tokens]) -> Tokens:
    """All tokens, each with the features that it had when it was masked, if it was."""
    patches = kept.x[:, kept.num_prefix :]
    for step in masked:
        assert step.policy is not None, "says which tokens this step masked"
        patches = torch.where(step.policy.unsqueeze(-1), step.x, patches)
    x = torch.cat([kept.x[:, : kept.num_prefix], patches], dim=1)
    return Tokens(x, kept.index, kept.grid, kept.num_prefix, kept.size)


def _place_of_cells(index: Tensor, num_cells: int) -> Tensor:
    """Position of each cell's token among the joined ones, shape (B, h * w), in raster order."""
    if index.shape[1] > num_cells:
        synthetic = index < 0  # each takes a number of its own behind the cells
        index = torch.where(synthetic, num_cells - 1 + synthetic.cumsum(1), index)
    return inverse_permutation(index)[:, :num_cells]


def _join(parts: Sequence[Tokens]) -> Tokens:
    """Concatenate along the sequence; the first part brings the prefix."""
    size = None
    if any(part.size is not None for part in parts):
        size = torch.cat([_sizes(part) for part in parts], dim=1)
    return Tokens(
        x=torch.cat([part.x for part in parts], dim=1),
        index=torch.cat([part.index for part in parts], dim=1),
        grid=parts[0].grid,
        num_prefix=parts[0].num_prefix,
        size=size,
    )


def _sizes(tokens: Tokens) -> Tensor:
    ones = torch.ones_like(tokens.index, dtype=torch.float32)
    return ones if tokens.size is None else tokens.size
