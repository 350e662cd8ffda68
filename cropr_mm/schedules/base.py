"""What every schedule shares: the settings it is asked about and the checks on its answer."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cropr_mm.moved import renamed


class ScheduleSettings(NamedTuple):
    """The model and image that a schedule is asked about.

    Attributes:
        num_patches: Patch tokens of the whole image.
        num_prefix: Prefix tokens (class token, registers), which are never reduced.
        depth: Blocks of the model.
        window_size: Side of an attention window, in patches; None without windows.
        last_site: Last block (0-based) after which a reduction saves anything.
        progress: Share of the full reduction in force, in [0, 1]; a curriculum raises it.
        num_fused: Tokens of no cell that each step of the method makes and counts among those it
            leaves; for schedules that count patches only.
    """

    num_patches: int
    num_prefix: int
    depth: int
    window_size: int | None
    last_site: int
    progress: float = 1.0
    num_fused: int = 0


class Schedule(ABC):
    """Says how many patch tokens remain after each block.

    A schedule is a pure function of its settings; a subclass writes :meth:`plan`.
    """

    def __call__(self, settings: ScheduleSettings) -> dict[int, int]:
        """Plan the reduction and check that a model can follow the plan.

        Args:
            settings: The model and image.

        Returns:
            ``{block: patch tokens kept}``, 0-based blocks in ascending order, counts that do not
            grow. A step that keeps everything stays in the plan, so that a model has the same
            reducers at every image size and progress.

        Raises:
            ValueError: If the plan does not fit the settings; the message has the numbers.
        """
        if not 0.0 <= settings.progress <= 1.0:
            raise ValueError(f"expected progress in [0, 1], got {settings.progress}")
        wanted = self.plan(settings)
        plan: dict[int, int] = {}
        left = settings.num_patches
        for block in sorted(wanted):  # keys, not items: this runs under torch.compile
            count = wanted[block]
            if not 0 <= block <= settings.last_site:
                raise ValueError(
                    f"{self}: expected blocks in [0, {settings.last_site}] (0-based) for a model "
                    f"of {settings.depth} blocks, got block {block}"
                )
            if not 1 <= count <= left:
                raise ValueError(
                    f"{self}: expected to keep between 1 and {left} of {settings.num_patches} "
                    f"patch tokens after block {block}, got {count}"
                )
            plan[block] = left = count
        return plan

    @abstractmethod
    def plan(self, settings: ScheduleSettings) -> dict[int, int]:
        """Say how many patch tokens to keep after each block (0-based); no need to check them."""


def scaled(removal: int, progress: float) -> int:
    """The part of a removal in force: scaled and floored, as in the published curriculum."""
    return math.floor(removal * progress + 1e-9)  # 0.29 * 100 is 28.999...


def check_whole(name: str, value: int | Sequence[int], least: int) -> None:
    """Check a whole number, or each of several.

    Raises:
        ValueError: If one is of another type or too small.
    """
    values = [value] if not isinstance(value, Sequence) or isinstance(value, str) else value
    if not values or any(not isinstance(one, int) or one < least for one in values):
        raise ValueError(f"expected {name} in whole numbers >= {least}, got {value!r}")


def check_blocks(blocks: Sequence[int]) -> tuple[int, ...]:
    """Blocks as a tuple.

    Raises:
        ValueError: If there are none, one is negative, or they do not ascend.
    """
    result = tuple(blocks)
    ascending = all(a < b for a, b in pairwise(result))
    if not result or result[0] < 0 or not ascending:
        raise ValueError(f"expected ascending 0-based blocks, got {list(blocks)}")
    return result


def __getattr__(name: str) -> object:
    return renamed(__name__, name, {"Setting": ("ScheduleSettings", ScheduleSettings)})
