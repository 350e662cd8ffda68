"""Steps that leave a whole number of attention windows."""

from collections.abc import Sequence
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class WindowStages(Schedule):
    """Shrink a windowed model by equal steps of the side length, rounded to whole windows.

    With W windows on the image, stage i of n keeps
    ``max(1, round(W * ((n + 1 - i) / (n + 1)) ** 2))`` windows. On 36 windows of 16 x 16 tokens and
    five stages these are the published 6400, 4096, 2304, 1024 and 256 tokens.

    Attributes:
        blocks: 0-based blocks after which the stages act, usually each just before a global block.
    """

    blocks: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", check_blocks(self.blocks))

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Counts in whole windows."""
        if settings.window_size is None:
            raise ValueError(
                f"{self}: expected a model with window attention, got window_size=None"
            )
        area = settings.window_size**2
        windows = settings.num_patches // area
        if windows == 0:
            raise ValueError(
                f"{self}: expected at least one window of {area} patch tokens, "
                f"got an image of {settings.num_patches}"
            )
        plan = {}
        left = settings.num_patches
        stages = len(self.blocks)
        for stage, block in enumerate(self.blocks):
            share = (stages - stage) ** 2
            keep = area * max(1, _rounded_ratio(windows * share, (stages + 1) ** 2))
            removal = scaled(settings.num_patches - keep, settings.progress)
            # Whole windows again, and no more tokens than there are.
            keep = -((removal - settings.num_patches) // area) * area
            plan[block] = left = min(left, keep)
        return plan


def _rounded_ratio(a: int, b: int) -> int:
    """``round(a / b)``, halves to even, for sizes that may be symbols of a traced graph."""
    whole, rest = a // b, a % b
    return whole + int(2 * rest > b or (2 * rest == b and whole % 2 == 1))
