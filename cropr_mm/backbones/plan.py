"""What a schedule means for one grid: tokens kept per block, and how survivors form windows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cropr_mm.ops.window import window_rectangle


class Plan(NamedTuple):
    """Reduction plan for one grid.

    Attributes:
        num_keep: Patch tokens kept at each reducing block (0-based).
        live: Patch tokens that the attention of each block sees.
        rectangles: With survivor_order='raster': rows and columns into which the survivors of a
            block are laid out, where window attention follows.
    """

    num_keep: dict[int, int]
    live: tuple[int, ...]
    rectangles: dict[int, tuple[int, int]]


def make_plan(
    num_keep: dict[int, int],
    grid: tuple[int, int],
    *,
    before: bool,
    num_restored: int,
    windowed: Sequence[bool],
    window_size: int | None,
    survivor_order: str,
) -> Plan:
    """Make the plan of what a schedule answers for a grid.

    Args:
        num_keep: Patch tokens kept at each reducing block (0-based).
        grid: Patch grid (h, w).
        before: Whether reducers act before their block, not inside or after it.
        num_restored: Last blocks that see all tokens again.
        windowed: For each block whether its attention works in windows.
        window_size: Side of a window, in patches; None where no block has windows.
        survivor_order: 'window' or 'raster'.

    Raises:
        ValueError: If the survivors of a step do not fill whole windows.
    """
    steps = steps_of_blocks(num_keep, len(windowed), before, num_restored)
    total = grid[0] * grid[1]
    live = tuple([total if step is None else num_keep[step] for step in steps])
    rectangles: dict[int, tuple[int, int]] = {}
    if window_size is not None:
        in_windows = [steps[i] if windowed[i] else None for i in range(len(steps))]
        rectangles = window_rectangles(num_keep, in_windows, window_size, survivor_order, grid)
    return Plan(num_keep, live, rectangles)


def steps_of_blocks(
    num_keep: Mapping[int, int], depth: int, before: bool, num_restored: int
) -> list[int | None]:
    """Find the step whose survivors the attention of each block sees.

    Args:
        num_keep: Patch tokens kept at each reducing block.
        depth: Number of blocks.
        before: Whether reducers act before their block, not inside or after it.
        num_restored: Last blocks that see all tokens again.

    Returns:
        For each block a reducing block, or None where all tokens are alive.
    """
    steps: list[int | None] = []
    latest = None
    for block in range(depth):  # plain, since this runs under torch.compile
        if before and block in num_keep:
            latest = block
        steps.append(None if block >= depth - num_restored else latest)
        if not before and block in num_keep:
            latest = block
    return steps


def window_rectangles(
    num_keep: Mapping[int, int],
    in_windows: Sequence[int | None],
    window_size: int,
    survivor_order: str,
    grid: tuple[int, int],
) -> dict[int, tuple[int, int]]:
    """Check that survivors fill whole windows, and find their rectangles in raster order.

    Args:
        num_keep: Patch tokens kept at each reducing block.
        in_windows: For each block with window attention the step whose survivors it sees; None for
            other blocks and where all tokens are alive.
        window_size: Side of a window, in patches.
        survivor_order: 'window' or 'raster'.
        grid: Patch grid (h, w).

    Returns:
        Rows and columns, in patches, by reducing block; empty in window order.

    Raises:
        ValueError: If the survivors of a step do not fill whole windows.
    """
    rectangles: dict[int, tuple[int, int]] = {}
    for block in range(len(in_windows)):
        step = in_windows[block]
        if step is None or step in rectangles or num_keep[step] == grid[0] * grid[1]:
            continue
        count = num_keep[step]
        if count % window_size**2:
            raise ValueError(
                f"{count} tokens kept at block {step} enter window attention in block "
                f"{block}, which needs a multiple of {window_size}**2 = {window_size**2}; "
                "keep another number or make that block global"
            )
        if survivor_order == "raster":
            rectangles[step] = window_rectangle(count, window_size, grid)
    return rectangles
