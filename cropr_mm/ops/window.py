"""Window geometry: order of tokens, slots in zero-padded windows, rectangles of survivors.

N patch tokens of an h x w grid, s the side of a window, W = ceil(h / s) * ceil(w / s) windows.
"""

import math

import torch
from torch import Tensor


def window_grid(grid: tuple[int, int], window_size: int) -> tuple[int, int]:
    """Rows and columns of windows that cover the grid; the last ones may be partly outside."""
    return math.ceil(grid[0] / window_size), math.ceil(grid[1] / window_size)


def window_slots(
    grid: tuple[int, int], window_size: int, device: torch.device | None = None
) -> Tensor:
    """Slot of every cell when the grid is cut into windows and the border ones are filled up.

    Args:
        grid: Rows and columns (h, w), in patches.
        window_size: Side s of a window, in patches.
        device: Of the result.

    Returns:
        Slot in [0, W * s**2) of each cell in raster order, shape (h * w,), int64.
    """
    columns = window_grid(grid, window_size)[1]
    y = torch.arange(grid[0], device=device)[:, None]
    x = torch.arange(grid[1], device=device)[None, :]
    window = (y // window_size) * columns + x // window_size
    return (window * window_size**2 + (y % window_size) * window_size + x % window_size).flatten()


def window_major_order(
    grid: tuple[int, int], window_size: int, device: torch.device | None = None
) -> Tensor:
    """Raster ids of the grid's cells, window by window, raster order inside each window.

    Args:
        grid: Rows and columns (h, w), in patches.
        window_size: Side of a window, in patches.
        device: Of the result.

    Returns:
        Permutation of range(h * w), shape (h * w,), int64.
    """
    height, width = grid
    if height % window_size or width % window_size:
        return window_slots(grid, window_size, device).argsort()
    cells = torch.arange(height * width, device=device)
    cells = cells.view(height // window_size, window_size, width // window_size, window_size)
    return cells.transpose(1, 2).flatten()


def window_rectangle(num_tokens: int, window_size: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rectangle of whole windows that holds the survivors and is nearest the grid's aspect ratio.

    Args:
        num_tokens: Number of survivors.
        window_size: Side s of a window, in patches.
        grid: Rows and columns (h, w) of the whole image, in patches; the rectangle must fit into
            it.

    Returns:
        Rows and columns of the rectangle, in patches.

    Raises:
        ValueError: If no such rectangle exists.
    """
    windows, rest = divmod(num_tokens, window_size**2)
    limit = window_grid(grid, window_size)
    fits = [
        (rows, windows // rows)
        for rows in range(1, limit[0] + 1)
        if windows and windows % rows == 0 and windows // rows <= limit[1]
    ]
    if rest or not fits:
        raise ValueError(
            f"survivor_order='raster' needs a rectangle of whole {window_size}x{window_size} "
            f"windows inside the {grid[0]}x{grid[1]} grid, "
            f"got {num_tokens} tokens = {windows} windows"
            f"{f' and {rest} tokens more' if rest else ''}; "
            "choose other counts or survivor_order='window'"
        )
    aspect = math.log(grid[0] / grid[1])
    rows, columns = min(fits, key=lambda rc: abs(math.log(rc[0] / rc[1]) - aspect))
    return rows * window_size, columns * window_size


def pad_to_windows(x: Tensor, slots: Tensor, num_slots: int) -> Tensor:
    """Put tokens into their slots of the window layout; other slots are zero, as in ViTDet.

    Args:
        x: Tokens, shape (B, N, C).
        slots: Slot of each token, shape (N,), int64.
        num_slots: W * s**2.

    Returns:
        Tokens, shape (B, num_slots, C).
    """
    return x.new_zeros(x.shape[0], num_slots, x.shape[2]).index_copy(1, slots, x)
