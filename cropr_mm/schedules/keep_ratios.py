"""Keep the same share of the tokens at each of a few blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class KeepRatios(Schedule):
    """Keep ``floor(num_patches * ratio ** stage)`` patch tokens at stages 1, 2, ...

    A token into which a method fuses the others (EViT) comes on top of them, as published. A
    curriculum brings the ratio down from 1.

    Attributes:
        ratio: Share kept per stage, in (0, 1].
        blocks: 0-based blocks of the stages.
        share_of: 'image', or 'live': ``ceil(ratio * n)`` of the n tokens that are left, the fused
            one of the stage before included, as in the released code of EViT.

    Raises:
        ValueError: If an argument is none of these.
    """

    ratio: float
    blocks: Sequence[int]
    share_of: str = "image"

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ValueError(f"expected ratio in (0, 1], got {self.ratio}")
        if self.share_of not in ("image", "live"):
            raise ValueError(f"expected share_of 'image' or 'live', got {self.share_of!r}")
        object.__setattr__(self, "blocks", check_blocks(self.blocks))

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Counts by a ratio at each block."""
        if self.share_of == "live":
            return live_counts(settings, self.ratio, self.blocks)
        return stage_counts(settings, self.ratio, self.blocks)


def stage_counts(settings: ScheduleSettings, ratio: float, blocks: Sequence[int]) -> dict[int, int]:
    """Patch tokens to keep at each block, unchecked; see :class:`KeepRatios`."""
    ratio = 1 - settings.progress * (1 - ratio)
    total = settings.num_patches
    counts = {}
    for stage, block in enumerate(blocks):
        real = math.floor(total * ratio ** (stage + 1) + 1e-9)
        counts[block] = min(total, real + settings.num_fused) if real else 0
    return counts


def live_counts(settings: ScheduleSettings, ratio: float, blocks: Sequence[int]) -> dict[int, int]:
    """The same as a share of the tokens that each stage finds."""
    ratio = 1 - settings.progress * (1 - ratio)
    left = settings.num_patches
    counts = {}
    for block in blocks:
        real = math.ceil(left * ratio - 1e-9)
        counts[block] = left = min(left, real + settings.num_fused)
    return counts
