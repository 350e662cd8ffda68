"""The same number of tokens after every block."""

from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class ConstantRate(Schedule):
    """Remove ``rate`` patch tokens after every block up to the last useful one.

    Attributes:
        rate: Tokens removed per block.
        absorb_prefix: The first step also removes as many patch tokens as there are prefix tokens,
            so that the whole sequence counts ``num_patches - rate * step``: a multiple of 8 where
            both terms are. The published models do this.
    """

    rate: int
    absorb_prefix: bool = True

    def __post_init__(self) -> None:
        if self.rate < 1:
            raise ValueError(f"expected rate >= 1, got {self.rate}")

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """The same number of tokens less after every block."""
        if settings.last_site < 0:
            raise ValueError(f"{self}: a model of {settings.depth} blocks has no room for a step")
        first = settings.num_patches - (settings.num_prefix if self.absorb_prefix else 0)
        rate = scaled(self.rate, settings.progress)
        return {block: first - rate * (block + 1) for block in range(settings.last_site + 1)}
