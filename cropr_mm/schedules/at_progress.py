"""A share of another schedule's reduction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class AtProgress(Schedule):
    """What another schedule keeps at a share of its full reduction, at any image size.

    Attributes:
        schedule: Config of the other schedule, or the schedule.
        progress: The share, in [0, 1].

    Raises:
        ValueError: If it is out of range.
    """

    schedule: Any
    progress: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.progress <= 1.0:
            raise ValueError(f"expected progress in [0, 1], got {self.progress}")
        if isinstance(self.schedule, Mapping):
            object.__setattr__(self, "schedule", TASK_UTILS.build(self.schedule))

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """The other plan, with the share of the progress in force."""
        return self.schedule.plan(settings._replace(progress=settings.progress * self.progress))
