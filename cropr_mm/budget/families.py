"""Schedules made by hand, each set to the same time: what a found one is compared with."""

from collections.abc import Callable

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.cost import CostModel
from cropr_mm.budget.work import Plan, work_of
from cropr_mm.schedules import ConstantRate, KeepRatios, Schedule, WindowStages

_HALVINGS = 20

FAMILIES = ("ConstantRate", "KeepRatios", "WindowStages")


def hand_made(backbone: ReducingBackbone, cost: CostModel, target_ms: float) -> dict[str, Plan]:
    """Plans by name whose predicted time is just within the target.

    A family that this encoder cannot follow, or that stays above the target, is left out.

    Args:
        backbone: Encoder with reducers at the blocks where steps are allowed.
        cost: What tokens cost.
        target_ms: Time of one call.
    """
    found = {}
    for name, make in _families(backbone).items():
        plan = _largest_within(backbone, cost, target_ms, make)
        if plan:
            found[name] = plan
    return found


def _families(backbone: ReducingBackbone) -> dict[str, Callable[[float], Schedule]]:
    """Schedules by name, each of one number in (0, 1) that says how much it prunes."""
    sites = sorted(int(block) for block in backbone.reducers)
    total = backbone.grid[0] * backbone.grid[1]
    thirds = [b for b in (round(backbone.depth * i / 4) - 1 for i in (1, 2, 3)) if b in sites]
    families: dict[str, Callable[[float], Schedule]] = {}
    if sites == list(range(len(sites))):
        most = (total - 1) / len(sites)
        families["ConstantRate"] = lambda p: ConstantRate(max(1, round(p * most)))
    if thirds:
        families["KeepRatios"] = lambda p: KeepRatios(1 - p, thirds)
    if backbone.window_size is not None:
        steps = [b for b in sites if b + 1 < backbone.depth and not backbone.is_windowed(b + 1)]
        families["WindowStages"] = lambda p: WindowStages(steps[: max(1, round(p * len(steps)))])
    return families


def _largest_within(
    backbone: ReducingBackbone,
    cost: CostModel,
    target_ms: float,
    make: Callable[[float], Schedule],
) -> Plan:
    """The least pruned plan of a family within the target; empty if there is none."""
    best: Plan = {}
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        try:
            plan = make(share)(backbone.schedule_settings(backbone.grid))
            within = cost.predict(work_of(backbone, plan)) <= target_ms
        except ValueError:  # no such plan, or too few tokens left
            high = share
            continue
        if within:
            high, best = share, plan
        else:
            low = share
    return best
