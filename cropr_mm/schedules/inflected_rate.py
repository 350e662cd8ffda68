"""Rates that rise or fall from block to block."""

from collections.abc import Sequence
from dataclasses import dataclass

from cropr_mm.registry import TASK_UTILS
from cropr_mm.schedules.base import Schedule, ScheduleSettings, check_whole, scaled


@TASK_UTILS.register_module()
@dataclass(frozen=True)
class InflectedRate(Schedule):
    """Remove ``rate`` patch tokens per block in the mean, but never more than one half at once.

    The rate of block b of L is ``int(low + b * 2 * (rate - low) / (L - 1))`` with
    ``low = int(rate * (1 - inflection))``. The published step inside of the last block is left out:
    no attention follows it.

    Attributes:
        rate: Tokens removed per block in the mean, or in each block; a list that is too short goes
            on with 0.
        inflection: 0 for a constant rate, 1 for one that rises from 0 to twice its mean, -1 for
            the reverse; of a list only 0.

    Source: Bolya et al., ToMe (arXiv 2210.09461), and its released code.
    """

    rate: int | Sequence[int]
    inflection: float = 0.0

    def __post_init__(self) -> None:
        rates = list(self.rate) if isinstance(self.rate, Sequence) else [self.rate]
        check_whole("rate", rates, 0)
        if max(rates) < 1:
            raise ValueError(f"expected rates >= 0, one of them positive, got {self.rate}")
        if not -1 <= self.inflection <= 1:
            raise ValueError(f"expected inflection in [-1, 1], got {self.inflection}")
        if not isinstance(self.rate, int) and self.inflection:
            raise ValueError("expected inflection=0 with a list of rates")
        object.__setattr__(self, "rate", rates[0] if isinstance(self.rate, int) else tuple(rates))

    def rates(self, depth: int) -> list[int]:
        """Rate of each block."""
        if not isinstance(self.rate, int):
            return (list(self.rate) + [0] * depth)[:depth]
        low = int(self.rate * (1 - self.inflection))
        step = 2 * (self.rate - low) / max(depth - 1, 1)
        return [int(low + block * step) for block in range(depth)]

    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Counts by a rate of each block."""
        plan: dict[int, int] = {}
        left = settings.num_patches
        for block, rate in enumerate(self.rates(settings.depth)[: settings.last_site + 1]):
            left -= min(scaled(rate, settings.progress), left // 2)
            plan[block] = left
        return plan
