"""Whole discs around the center of a square image; for :class:`cropr_mm.reducers.RadialPruner`."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, sqrt

from cropr_mm.reducers.radial import axis, float32, float32_steps
from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks
from cropr_mm.schedules.keep_ratios import KeepRatios, stage_counts


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class Discs(Schedule):
    """At each stage the disc whose number of patches is nearest to that of :class:`KeepRatios`.

    Of two that are as near the smaller one is taken.

    Attributes:
        ratio: Share kept per stage, in (0, 1].
        blocks: 0-based blocks of the stages.
        norm: 'l1', 'l2' or 'linf', that of the pruner.
        compat: That of the pruner: radii of the released code, which rounding splits.

    Raises:
        ValueError: If an argument is none of these; when asked, if the grid is no square.
    """

    ratio: float
    blocks: Sequence[int]
    norm: str = "l2"
    compat: bool = False

    def __post_init__(self) -> None:
        KeepRatios(self.ratio, self.blocks)  # the same arguments, checked there
        check_norm(self.norm)

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Patches in the disc nearest to each wanted count."""
        counts = disc_counts(square_side(self, settings), self.norm, self.compat)
        wanted = stage_counts(settings, self.ratio, self.blocks)
        plan = {}
        for block in self.blocks:  # plain, since this runs under torch.compile
            nearest = counts[0]
            for count in counts:
                if abs(count - wanted[block]) < abs(nearest - wanted[block]):
                    nearest = count
            plan[block] = nearest
        return plan


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class ShrinkingDiscs(Schedule):
    """Discs whose radius falls linearly from block to block.

    One block before the first the disc has the whole image, one block behind the last
    ``min_radius``; a curriculum brings the latter down from the former.

    Attributes:
        blocks: 0-based blocks of the steps, as published one after another.
        norm: 'l1', 'l2' or 'linf', that of the pruner.
        min_radius: Positive, in patches.
        compat: That of the pruner: radii of the released code, in its coordinates, in which the
            side of the grid counts as one patch longer.

    Raises:
        ValueError: If an argument is none of these; when asked, if the grid is no square.

    Source: the second mode of the fixed patterns in the code of Haurum et al., Which Tokens to Use?
    """

    blocks: Sequence[int]
    norm: str = "l2"
    min_radius: float = 1.0
    compat: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", check_blocks(self.blocks))
        check_norm(self.norm)
        if not self.min_radius > 0:
            raise ValueError(f"expected min_radius > 0, got {self.min_radius}")

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Patches in discs whose radius falls linearly."""
        radii = sorted_radii(square_side(self, settings), self.norm, self.compat)
        if not self.compat:
            radii = [(sqrt(z) if self.norm == "l2" else z) / 2 for z in radii]  # in patches
        outer = radii[-1]
        least = outer + settings.progress * (self.min_radius - outer)
        first = self.blocks[0]
        span = self.blocks[-1] - first + 2
        rounded = float32_steps(outer, least, span + 1)
        plan = {}
        for block in self.blocks:
            step = block - first + 1
            limit = rounded[step] if self.compat else outer + step / span * (least - outer) + 1e-9
            plan[block] = len([z for z in radii if z <= limit])
        return plan


def check_norm(norm: str) -> None:
    """Raise ValueError if there is no such norm."""
    if norm not in ("l1", "l2", "linf"):
        raise ValueError(f"expected norm 'l1', 'l2' or 'linf', got {norm!r}")


def square_side(schedule: Schedule, settings: ScheduleSettings) -> int:
    """Rows and columns of the grid; ValueError if it is no square."""
    side = isqrt(settings.num_patches)
    if side * side != settings.num_patches:
        raise ValueError(f"{schedule}: expected a square grid, got {settings.num_patches} patches")
    return side


def disc_counts(side: int, norm: str, compat: bool = False) -> list[int]:
    """Numbers of cells of a square grid that lie inside a disc, for every radius, ascending."""
    radii = sorted_radii(side, norm, compat)
    outer = [*radii[1:], radii[-1] + 1]
    return [i + 1 for i in range(len(radii)) if radii[i] < outer[i]]  # each ring's last cell


def sorted_radii(side: int, norm: str, compat: bool) -> list[float]:
    """Distances of all cells from the center, ascending.

    Args:
        side: Rows and columns of the grid.
        norm: 'l1', 'l2' or 'linf'.
        compat: See :class:`Discs`; otherwise in halves of a patch (squared for 'l2').
    """
    line = [abs(value) for value in axis(side, compat)]
    if norm == "l1":
        radii = [float32(y + x) for y in line for x in line]
    elif norm == "linf":
        radii = [max(y, x) for y in line for x in line]
    else:
        squares = [float32(value * value) for value in line]
        radii = [float32(y + x) for y in squares for x in squares]
        radii = [float32(sqrt(z)) for z in radii] if compat else radii
    return sorted(radii)
