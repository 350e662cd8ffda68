"""A few large steps at chosen blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_blocks, check_whole, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class Stages(Schedule):
    """Remove ``rate`` patch tokens after each of the given blocks.

    Attributes:
        rate: Tokens removed per stage: one number, or one for each stage.
        blocks: 0-based blocks after which the stages act.
        absorb_prefix: The first stage also removes as many patch tokens as there are prefix tokens.
            The published single step to 200 tokens of 1025 is without: ``Stages(825, [2], False)``.
    """

    rate: int | Sequence[int]
    blocks: Sequence[int]
    absorb_prefix: bool = True

    def __post_init__(self) -> None:
        blocks = check_blocks(self.blocks)
        object.__setattr__(self, "blocks", blocks)
        check_whole("rate", self.rate, 1)
        if len(self._rates()) != len(blocks):
            raise ValueError(
                f"expected one rate, or one for each of {len(blocks)} blocks, got {self.rate}"
            )

    def _rates(self) -> list[int]:
        """Rate of each stage."""
        if isinstance(self.rate, int):
            return [self.rate] * len(self.blocks)
        return list(self.rate)

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Counts by the tokens removed at each block."""
        left = settings.num_patches - (settings.num_prefix if self.absorb_prefix else 0)
        rates = self._rates()
        plan = {}
        for stage, block in enumerate(self.blocks):
            left -= scaled(rates[stage], settings.progress)
            plan[block] = left
        return plan
