"""Shares of the tokens spelled out."""

from collections.abc import Mapping
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks

_PARTS = 1_000_000  # shares in whole millionths, since a traced size knows no rounding of floats


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class ExplicitShares(Schedule):
    """Keep the given share of the image's patch tokens after each block; fits any image size.

    Counts are rounded to the nearest token, with window attention to the nearest whole window, and
    at least one of them is kept. A curriculum brings the shares down from 1.

    Attributes:
        share: ``{0-based block: share of the patch tokens kept}``, in (0, 1], not growing.

    Raises:
        ValueError: If blocks or shares are none of these.
    """

    share: Mapping[int, float]

    def __post_init__(self) -> None:
        # Keys set on a command line arrive as strings.
        plan = dict(sorted((int(block), float(share)) for block, share in self.share.items()))
        check_blocks(list(plan))
        shares = list(plan.values())
        outside = [share for share in shares if not 0 < share <= 1]
        if outside or shares != sorted(shares, reverse=True):
            raise ValueError(f"expected shares in (0, 1] that do not grow, got {plan}")
        object.__setattr__(self, "share", plan)

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """The given shares in whole tokens or windows."""
        total = settings.num_patches
        unit = 1 if settings.window_size is None else settings.window_size**2
        counts = {}
        for block, share in self.share.items():
            kept = round(_PARTS * (1 - settings.progress * (1 - share)))
            units = max(1, (2 * total * kept + unit * _PARTS) // (2 * unit * _PARTS))
            # A grid that windows do not divide has tokens beyond the last whole window.
            counts[block] = total if kept == _PARTS else min(total, unit * units)
        return counts
