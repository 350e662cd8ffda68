"""The same number of tokens after every block."""

from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_whole, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class ConstantRate(Schedule):
    """Remove ``rate`` patch tokens after every block up to the last useful one.

    Attributes:
        rate: Tokens removed per block.
        absorb_prefix: The first step also removes as many patch tokens as there are prefix tokens,
            so that the whole sequence counts ``num_patches - rate * step``: a multiple of 8 where
            both terms are. The published models do this.
        min_keep: Fewest patch tokens that are left, for images smaller than those of training,
            which the same rate would use up. None refuses such images.
    """

    rate: int
    absorb_prefix: bool = True
    min_keep: int | None = None

    def __post_init__(self) -> None:
        check_whole("rate", self.rate, 1)
        if self.min_keep is not None:
            check_whole("min_keep", self.min_keep, 1)

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """The same number of tokens less after every block."""
        if settings.last_site < 0:
            raise ValueError(f"{self}: a model of {settings.depth} blocks has no room for a step")
        first = settings.num_patches - (settings.num_prefix if self.absorb_prefix else 0)
        rate = scaled(self.rate, settings.progress)
        plan = {block: first - rate * (block + 1) for block in range(settings.last_site + 1)}
        if self.min_keep is not None:
            least = min(self.min_keep, settings.num_patches)
            return {block: max(count, least) for block, count in plan.items()}
        if plan[settings.last_site] < 1:
            raise ValueError(
                f"{self}: {rate} tokens after each of {len(plan)} blocks are more than the "
                f"{settings.num_patches} of the image; min_keep ends the removal in time, and "
                "KeepRatios removes shares of the image"
            )
        return plan
