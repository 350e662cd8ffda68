"""Token counts that a search tries, and the plans that are timed to learn what counts cost."""

import random
from collections.abc import Sequence

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.budget.work import Plan, with_plan
from cropr_mm.engine.preflight import SetupError

_SHARES = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 1 / 16)
_TOKENS = 8  # kernels work on tiles: a few tokens more or less cost nothing


def token_counts(backbone: ReducingBackbone) -> list[int]:
    """Counts that a step may leave, descending from all tokens of the native image.

    Multiples of eight tokens, with window attention of whole windows.

    Raises:
        SetupError: If there is no room for a step.
    """
    total = backbone.grid[0] * backbone.grid[1]
    unit = _TOKENS if backbone.window_size is None else backbone.window_size**2
    wanted = {unit * round(total * share / unit) for share in _SHARES}
    first = min(int(block) for block in backbone.reducers)
    counts = [n for n in wanted if 0 < n < total and _fits(backbone, {first: n})]
    if not counts:
        raise SetupError(
            f"expected an image of more than one step of {unit} patch tokens, got {total} of "
            f"{backbone.native_size[0]}x{backbone.native_size[1]} pixels: set a larger img_size"
        )
    return [total, *sorted(counts, reverse=True)]


def probes(sites: Sequence[int], counts: Sequence[int]) -> list[Plan]:
    """Plans whose times tell blocks, attention and steps apart.

    One early step to each count, a late step to some, and steps at all blocks to others.

    Args:
        sites: Blocks with a reducer, ascending.
        counts: From :func:`token_counts`.
    """
    lower = counts[1:]
    early = [{sites[0]: count} for count in lower]
    late = [{sites[len(sites) // 2]: count} for count in (lower[0], lower[-1])]
    spread = [falling(sites, counts, count) for count in (lower[len(lower) // 2], lower[-1])]
    plans = [{}, *early, *late, *spread]
    return [plan for i, plan in enumerate(plans) if plan not in plans[:i]]


def falling(sites: Sequence[int], counts: Sequence[int], last: int) -> Plan:
    """Steps at all blocks, each to the count nearest to an even fall in proportion."""
    total = counts[0]
    plan = {}
    for i, site in enumerate(sites, start=1):
        wanted = total * (last / total) ** (i / len(sites))
        plan[site] = min(counts, key=lambda count: abs(count - wanted))
    return {site: count for site, count in plan.items() if count < total}


def drawn(sites: Sequence[int], counts: Sequence[int], number: int, seed: int = 0) -> list[Plan]:
    """Plans drawn at random, to try predictions on."""
    rng = random.Random(seed)
    plans = []
    for _ in range(number):
        steps = sorted(rng.sample(list(sites), min(len(sites), rng.randint(1, 4))))
        kept = sorted(rng.choices(counts[1:], k=len(steps)), reverse=True)
        plans.append(dict(zip(steps, kept, strict=True)))
    return plans


def _fits(backbone: ReducingBackbone, plan: Plan) -> bool:
    try:
        with_plan(backbone, plan).plan()
    except ValueError:
        return False
    return True
