"""Plans of least damage for every time, by dynamic programming over the blocks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.cost import CostModel
from cropr_mm.budget.work import Plan, segments, work_of

_TICKS = 500  # into which the dense encoder's time is cut


class Choice(NamedTuple):
    """A plan on the frontier.

    Attributes:
        ms: Predicted time of one call.
        damage: Predicted growth of the loss.
        plan: Patch tokens kept by 0-based block.
    """

    ms: float
    damage: float
    plan: Plan


def find_frontier(
    backbone: ReducingBackbone,
    cost: CostModel,
    counts: Sequence[int],
    damage: Mapping[tuple[int, int], float],
) -> list[Choice]:
    """Plans than which no other is both faster and less damaging, as predicted.

    The damage of a plan is the sum over its steps of what the tokens that leave there cost: with
    D(b, k) for one step at block b that leaves k tokens, a step from n to k tokens costs
    D(b, k) - D(b, n). Single damages do not add exactly; the best plans are measured whole.

    Args:
        backbone: Encoder with reducers at the blocks where steps are allowed.
        cost: What tokens cost.
        counts: Allowed token counts, descending, all tokens first.
        damage: D(b, k) by 0-based block and count.

    Returns:
        Fastest last; the first is dense, unless a pruned plan does no damage.
    """
    parts = segments(backbone)
    sites = list(parts)
    grown = _monotonic(damage, sites, counts)
    dense = work_of(backbone, {})

    def milliseconds(site: int, count: int) -> float:
        keys = {i: dense.keys[i] if backbone.is_windowed(i) else count for i in parts[site]}
        return sum(cost.block(count, min(count, keys[i])) for i in parts[site])

    tick = cost.predict(dense) / _TICKS
    best = np.full((len(counts), _TICKS + 1), np.inf)  # damage by count and ticks spent
    best[0, 0] = 0.0
    origins = []
    for site in sites:
        found = np.full_like(best, np.inf)
        origin = np.zeros((*best.shape, 2), dtype=int)
        for old in range(len(counts)):
            for new in range(old, len(counts)):
                spent = milliseconds(site, counts[new]) + (
                    cost.step(counts[old]) if new > old else 0.0
                )
                ticks = round(spent / tick)
                added = max(0.0, grown[site, counts[new]] - grown[site, counts[old]])
                moved = np.full(_TICKS + 1, np.inf)
                if ticks <= _TICKS:
                    moved[ticks:] = best[old, : _TICKS + 1 - ticks] + added
                better = moved < found[new]
                found[new][better] = moved[better]
                origin[new][better] = np.stack(
                    [np.full(better.sum(), old), np.flatnonzero(better) - ticks], axis=1
                )
        best = found
        origins.append(origin)
    plans: list[Choice] = []
    least = np.inf
    for spent_ticks in range(_TICKS + 1):
        count = int(best[:, spent_ticks].argmin())
        if best[count, spent_ticks] < least:
            least = float(best[count, spent_ticks])
            plan = _trace(origins, sites, counts, count, spent_ticks)
            plans.append(Choice(cost.predict(work_of(backbone, plan)), least, plan))
    return plans[::-1]


def _trace(
    origins: Sequence[np.ndarray], sites: Sequence[int], counts: Sequence[int], row: int, ticks: int
) -> Plan:
    """Steps that led to a place of the table."""
    plan = {}
    for site, origin in zip(reversed(sites), reversed(origins), strict=True):
        old, before = origin[row, ticks]
        if old != row:
            plan[site] = counts[row]
        row, ticks = int(old), int(before)
    return dict(sorted(plan.items()))


def _monotonic(
    damage: Mapping[tuple[int, int], float], sites: Sequence[int], counts: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Damage that does not fall when fewer tokens are kept: where it does, that is noise."""
    grown = {}
    for site in sites:
        worst = 0.0
        for count in counts:
            worst = max(worst, damage.get((site, count), 0.0))
            grown[site, count] = worst
    return grown
