"""Whole discs around the centre of a square image, as near as possible to a keep rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, Setting
from cropr_mm.schedules.keep_ratios import KeepRatios, stage_counts


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class Discs(Schedule):
    """At each stage the disc whose number of patches is nearest to that of :class:`KeepRatios`.

    Of two that are as near the smaller one is taken. For :class:`cropr_mm.reducers.RadialPruner`.

    Attributes:
        ratio: Share kept per stage, in (0, 1].
        blocks: 0-based blocks of the stages.
        norm: 'l1', 'l2' or 'linf', that of the pruner.

    Raises:
        ValueError: If an argument is none of these; when asked, if the grid is no square.
    """

    ratio: float
    blocks: Sequence[int]
    norm: str = "l2"

    def __post_init__(self) -> None:
        KeepRatios(self.ratio, self.blocks)  # the same arguments, checked there
        if self.norm not in ("l1", "l2", "linf"):
            raise ValueError(f"expected norm 'l1', 'l2' or 'linf', got {self.norm!r}")

    def plan(self, setting: Setting) -> dict[int, int]:
        side = isqrt(setting.num_patches)
        if side * side != setting.num_patches:
            raise ValueError(f"{self}: expected a square grid, got {setting.num_patches} patches")
        counts = disc_counts(side, self.norm)
        wanted = stage_counts(setting, self.ratio, self.blocks)
        plan = {}
        for block in self.blocks:  # plain, since this runs under torch.compile
            nearest = counts[0]
            for count in counts:
                if abs(count - wanted[block]) < abs(nearest - wanted[block]):
                    nearest = count
            plan[block] = nearest
        return plan


def disc_counts(side: int, norm: str) -> list[int]:
    """Numbers of cells of a square grid that lie inside a disc, for every radius, ascending."""
    axis = [abs(2 * i - (side - 1)) for i in range(side)]
    if norm == "l1":
        radii = [y + x for y in axis for x in axis]
    elif norm == "l2":
        radii = [y * y + x * x for y in axis for x in axis]
    else:
        radii = [max(y, x) for y in axis for x in axis]
    radii = sorted(radii)
    outer = [*radii[1:], radii[-1] + 1]
    return [i + 1 for i in range(len(radii)) if radii[i] < outer[i]]  # each ring's last cell
