"""Pick tokens by position.

B batch, P prefix tokens, N live patch tokens, K picked tokens, C channels.
"""

import torch
from torch import Tensor

from cropr_mm.ops.select import running_count
from cropr_mm.structures import PATCH_FIELDS, Tokens


def gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    """Select tokens by position, in the order given.

    Args:
        x: Tokens, shape (B, N, C), any dtype.
        index: Positions, shape (B, K), int64 in [0, N).

    Returns:
        Tokens, shape (B, K, C), dtype and device of ``x``.

    Raises:
        ValueError: If ``x`` or ``index`` has the wrong rank, or batch sizes differ.
    """
    if x.dim() != 3 or index.dim() != 2 or x.shape[0] != index.shape[0]:
        raise ValueError(
            "expected tokens (B, N, C) and positions (B, K) of the same batch, "
            f"got {tuple(x.shape)} and {tuple(index.shape)}"
        )
    batch, num_tokens, channels = x.shape
    # Whole rows of the flattened batch: several times faster than an elementwise gather.
    first = torch.arange(batch, device=index.device).unsqueeze(1) * num_tokens  # (B, 1)
    rows = (index + first).flatten()  # (B * K,)
    picked = x.reshape(batch * num_tokens, channels).index_select(0, rows)
    return picked.view(batch, index.shape[1], channels)


def take_tokens(tokens: Tokens, positions: Tensor, with_prefix: bool) -> Tokens:
    """Select patch tokens with everything that belongs to them, in the order given.

    Args:
        tokens: P prefix and N patch tokens.
        positions: Positions among the patch tokens, shape (B, K), int64 in [0, N).
        with_prefix: Keep the prefix tokens in front; otherwise the result has none.

    Returns:
        P + K tokens, or K tokens without prefix. One copy of the features is made.

    Raises:
        ValueError: If tokens were merged before: which cells the others stood for would be lost.
    """
    if tokens.source is not None:
        raise ValueError("expected tokens that stand for one cell each, got merged ones")
    num_prefix = tokens.num_prefix
    rows = positions + num_prefix  # (B, K), in the whole sequence
    if with_prefix and num_prefix:
        front = torch.arange(num_prefix, device=rows.device).expand(rows.shape[0], -1)
        rows = torch.cat([front, rows], dim=1)  # (B, P + K)
    taken = {"x": gather_tokens(tokens.x, rows)}
    for name in PATCH_FIELDS:
        field = getattr(tokens, name)
        if field is not None:
            flat = field.dim() == 2
            taken[name] = field.gather(1, positions) if flat else gather_tokens(field, positions)
    return tokens.replace(num_prefix=num_prefix if with_prefix else 0, **taken)


def take_entries(table: Tensor, index: Tensor) -> Tensor:
    """Entries of a table by token.

    The same as ``table[index]`` for indices that are not negative; in an exported graph it is one
    plain Gather.

    Args:
        table: Shape (N, ...).
        index: Shape (B, K), int64 in [0, N).

    Returns:
        Shape (B, K, ...).
    """
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def ascending_order(index: Tensor, num_cells: int) -> Tensor:
    """Positions that bring raster ids into ascending order, without sorting.

    Args:
        index: Raster ids, unique in a row, shape (B, K), int64 in [0, num_cells).
        num_cells: Cells of the grid.

    Returns:
        What ``index.argsort(1)`` is, shape (B, K), int64.
    """
    alive = index.new_zeros(index.shape[0], num_cells).scatter(1, index, 1)
    rank = running_count(alive).gather(1, index) - 1  # (B, K)
    return inverse_permutation(rank)


def inverse_permutation(permutation: Tensor) -> Tensor:
    """Position of every value in a permutation, by one scatter.

    Args:
        permutation: Each row holds 0 ... N - 1 once, shape (B, N), int64.

    Returns:
        ``inverse`` of the same shape with ``inverse[b, permutation[b, n]] == n``.
    """
    position = torch.arange(permutation.shape[1], device=permutation.device)
    return torch.zeros_like(permutation).scatter(1, permutation, position.expand_as(permutation))
