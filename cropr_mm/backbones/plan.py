"""What a schedule means for one grid: tokens kept per block and how survivors form windows."""

from typing import NamedTuple

from cropr_mm.ops.window import window_rectangle
from cropr_mm.schedules.base import Schedule


class Plan(NamedTuple):
    """Reduction plan for one grid.

    Attributes:
        num_keep: Patch tokens kept at each reducing block (0-based).
        rectangles: With survivor_order='raster': rows and columns into which the survivors of a
            block are laid out, where windows follow.
    """

    num_keep: dict[int, int]
    rectangles: dict[int, tuple[int, int]]


def make_plan(
    schedule: Schedule | None,
    *,
    grid: tuple[int, int],
    num_prefix: int,
    windowed: tuple[bool, ...],
    window_size: int | None,
    survivor_order: str,
    before: bool,
    last_site: int,
    fused: bool,
    progress: float,
    num_fused: int,
) -> Plan:
    """Ask the schedule and check that what it says can run.

    Args:
        schedule: Schedule, or None for the dense model.
        grid: Patch grid (h, w).
        num_prefix: Prefix tokens.
        windowed: Whether each block attends in windows.
        window_size: Side of a window, in patches, or None.
        survivor_order: 'window' or 'raster'.
        before: Whether reducers act before their block, not inside or after it.
        last_site: Last block after which reduction makes sense.
        fused: Whether the last block sees all tokens again.
        progress: Share of the full reduction, in [0, 1].
        num_fused: Tokens of no cell that each step makes (``TokenReducer.num_fused``).

    Raises:
        ValueError: If counts are impossible, or survivors do not fill whole windows.
    """
    if schedule is None:
        return Plan({}, {})
    depth = len(windowed)
    num_keep = schedule(
        num_patches=grid[0] * grid[1],
        num_prefix=num_prefix,
        depth=depth,
        window_size=window_size,
        last_site=last_site,
        progress=progress,
        num_fused=num_fused,
    )
    rectangles: dict[int, tuple[int, int]] = {}
    if window_size is None or not num_keep:
        return Plan(num_keep, rectangles)
    shift = 0 if before else 1
    blocks = sorted(num_keep)
    ends = [block + shift for block in blocks[1:]] + [depth - 1 if fused else depth]
    for i in range(len(blocks)):  # plain, since this runs under torch.compile
        block = blocks[i]
        count = num_keep[block]
        in_windows = [b for b in range(block + shift, ends[i]) if windowed[b]]
        if not in_windows or count == grid[0] * grid[1]:
            continue
        if count % window_size**2:
            raise ValueError(
                f"{count} tokens kept at block {block} enter window attention in block "
                f"{in_windows[0]}, which needs a multiple of {window_size}**2 = {window_size**2}; "
                "keep another number or make that block global"
            )
        if survivor_order == "raster":
            rectangles[block] = window_rectangle(count, window_size, grid)
    return Plan(num_keep, rectangles)
