"""Token counts spelled out."""

from collections.abc import Mapping
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks, check_whole, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class ExplicitTokens(Schedule):
    """Keep exactly the given number of patch tokens; fits one image size.

    Attributes:
        num_keep: ``{0-based block: patch tokens kept}``.
    """

    num_keep: Mapping[int, int]

    def __post_init__(self) -> None:
        # Keys set on a command line arrive as strings.
        plan = {int(block): count for block, count in self.num_keep.items()}
        check_blocks(sorted(plan))
        check_whole("num_keep", list(plan.values()), 0)
        object.__setattr__(self, "num_keep", plan)

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """The given counts, scaled by the progress."""
        total = settings.num_patches
        over = {block: keep for block, keep in self.num_keep.items() if keep > total}
        if over:
            raise ValueError(f"{self}: expected at most {total} patch tokens, got {over}")
        return {
            block: total - scaled(total - keep, settings.progress)
            for block, keep in self.num_keep.items()
        }
