"""Keep the same share of the tokens at each of a few blocks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, Setting, check_blocks


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class KeepRatios(Schedule):
    """Keep ``floor(num_patches * ratio ** stage)`` patch tokens at stages 1, 2, ...

    A token into which a method fuses the others (EViT) comes on top of them, as published. A
    curriculum brings the ratio down from 1.

    Attributes:
        ratio: Share kept per stage, in (0, 1].
        blocks: 0-based blocks of the stages.
    """

    ratio: float
    blocks: Sequence[int]

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio <= 1.0:
            raise ValueError(f"expected ratio in (0, 1], got {self.ratio}")
        object.__setattr__(self, "blocks", check_blocks(self.blocks))

    def plan(self, setting: Setting) -> dict[int, int]:
        return stage_counts(setting, self.ratio, self.blocks)


def stage_counts(setting: Setting, ratio: float, blocks: Sequence[int]) -> dict[int, int]:
    """Patch tokens to keep at each block, unchecked; see :class:`KeepRatios`."""
    ratio = 1 - setting.progress * (1 - ratio)
    total = setting.num_patches
    counts = {}
    for stage, block in enumerate(blocks):
        real = math.floor(total * ratio ** (stage + 1) + 1e-9)
        counts[block] = min(total, real + setting.num_fused) if real else 0
    return counts
