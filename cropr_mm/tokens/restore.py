"""Put every token back into its cell of the grid.

B batch, P prefix tokens, N cells of the whole grid, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cropr_mm.structures import PATCH_FIELDS, Tokens
from cropr_mm.tokens.gather import inverse_permutation, take_tokens
from cropr_mm.tokens.policy import has_every_cell, is_soft


def restore_tokens(kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
    """Join kept and dropped tokens and bring them into the order of the whole grid.

    Tokens that belong to no cell (index -1) are left out. Where tokens were merged, every cell gets
    a copy of the token it was merged into. Where they were masked in training, each gets the
    features that it had when it was masked, as if it had been dropped.

    Args:
        kept: Live tokens, prefix first.
        dropped: Tokens that each reduction dropped, without prefix.
        order: Raster id of each place in the result, shape (N,), int64: the token order of the
            model. None means ascending raster ids.

    Returns:
        P prefix tokens of ``kept`` and all N patch tokens of the grid, with ``index`` equal to
        ``order``. None of them is masked, and ``source``, ``exit`` and ``position`` are None: each
        token lies in its own cell again.

    Raises:
        ValueError: If there are fewer tokens than cells, grids differ, a dropped record has prefix
            tokens, or some tokens were merged and others dropped.

    Every cell must occur once. Values are not checked, because that would stall the device.
    """
    height, width = kept.grid
    num_cells = height * width
    for left in dropped:
        if left.grid != kept.grid or left.num_prefix:
            raise ValueError(
                f"expected dropped tokens of grid {kept.grid} without prefix, "
                f"got grid {left.grid} with {left.num_prefix} prefix tokens"
            )
    if order is not None and order.shape != (num_cells,):
        raise ValueError(f"expected an order of shape ({num_cells},), got {tuple(order.shape)}")
    if is_soft(kept):
        kept, dropped = _unmask(kept, dropped), []
    # These speak of tokens that are masked, gone or out of their cells; none is in the result.
    parts = [part.replace(policy=None, exit=None, position=None) for part in (kept, *dropped)]
    if kept.source is not None:
        place = kept.source
        if dropped:
            raise ValueError("expected merged tokens or dropped ones, got both")
        joined = parts[0].replace(source=None, size=None)  # each cell has its own token again
    else:
        counts = [part.index.shape[1] for part in parts]
        if sum(counts) < num_cells:
            raise ValueError(
                f"expected {num_cells} tokens or more for the {height} x {width} grid, "
                f"got {sum(counts)}: {counts[0]} kept, {counts[1:]} dropped"
            )
        joined = _join(parts) if dropped else parts[0]
        place = _place_of_cells(joined.index, num_cells)
    if order is not None:
        place = place.index_select(1, order)
    full = take_tokens(joined, place, with_prefix=True)
    cells = torch.arange(num_cells, device=place.device) if order is None else order
    return full.replace(index=cells.expand_as(place))


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


def live_map(x: Tensor, tokens: Tokens) -> Tensor:
    """Features of patch tokens in their cells, and zero where none is alive.

    Args:
        x: Features of the patch tokens, shape (B, N, C).
        tokens: The tokens that they are of.

    Returns:
        Shape (B, C, h, w), in memory channels last.
    """
    if has_every_cell(tokens):
        return x.transpose(1, 2).unflatten(2, tokens.grid)
    if tokens.policy is not None:
        x = x * tokens.policy.to(x.dtype).unsqueeze(-1)
    return zero_padded_map(x, tokens.index, tokens.grid)


def _unmask(kept: Tokens, masked: Sequence[Tokens]) -> Tokens:
    """Give each masked token the features that it had when it was masked."""
    patches = kept.x[:, kept.num_prefix :]
    for step in masked:
        assert step.policy is not None, "says which tokens this step masked"
        patches = torch.where(step.policy.unsqueeze(-1), step.x, patches)
    x = torch.cat([kept.x[:, : kept.num_prefix], patches], dim=1)
    return kept.replace(x=x, policy=None)


def _place_of_cells(index: Tensor, num_cells: int) -> Tensor:
    """Position of each cell's token among the joined ones, shape (B, h * w), in raster order."""
    if index.shape[1] > num_cells:
        synthetic = index < 0  # each takes a number of its own behind the cells
        index = torch.where(synthetic, num_cells - 1 + synthetic.cumsum(1), index)
    return inverse_permutation(index)[:, :num_cells]


def _join(parts: Sequence[Tokens]) -> Tokens:
    """Concatenate along the sequence; the first part brings the prefix."""
    if any(part.size is not None for part in parts):
        parts = [part.replace(size=_sizes(part)) for part in parts]
    joined = {"x": torch.cat([part.x for part in parts], dim=1)}
    for name in PATCH_FIELDS:
        if getattr(parts[0], name) is not None:
            joined[name] = torch.cat([getattr(part, name) for part in parts], dim=1)
    return parts[0].replace(**joined)


def _sizes(tokens: Tokens) -> Tensor:
    ones = torch.ones_like(tokens.index, dtype=torch.float32)
    return ones if tokens.size is None else tokens.size
