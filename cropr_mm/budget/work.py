"""What an encoder does under one plan: tokens that its blocks see and that its steps look at."""

import copy
from typing import NamedTuple

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.plan import steps_of_blocks
from cropr_mm.backbones.scheduled import Backbone
from cropr_mm.schedules import ExplicitShares

Plan = dict[int, int]
"""Patch tokens kept by 0-based block, at the native image size."""


class Work(NamedTuple):
    """Counts of patch tokens of one image.

    Attributes:
        live: Tokens that the attention of each block sees.
        keys: Tokens that each of them looks at: all of them, or those of its window.
        entering: Tokens that each step chooses from; steps that keep all are left out.
    """

    live: tuple[int, ...]
    keys: tuple[int, ...]
    entering: tuple[int, ...]


def with_plan(backbone: Backbone, plan: Plan) -> Backbone:
    """Twin that shares every parameter and follows another plan.

    Args:
        backbone: Encoder with a reducer at each block of the plan.
        plan: The plan; an empty one stands for the dense encoder.
    """
    if not plan:
        return backbone.unpruned()
    twin = copy.copy(backbone)
    twin.schedule = as_shares(backbone, plan)
    return twin


def as_shares(backbone: ReducingBackbone, plan: Plan) -> ExplicitShares:
    """A plan for any image size; an empty one keeps all tokens."""
    total = backbone.grid[0] * backbone.grid[1]
    last = max(int(block) for block in backbone.reducers)
    return ExplicitShares({block: n / total for block, n in (plan or {last: total}).items()})


def work_of(backbone: ReducingBackbone, plan: Plan) -> Work:
    """Work of an encoder under a plan, at its native image size.

    Raises:
        ValueError: If the encoder cannot follow the plan.
    """
    live = with_plan(backbone, plan).plan().live
    area = 0 if backbone.window_size is None else backbone.window_size**2
    keys = [min(area, n) if backbone.is_windowed(i) else n for i, n in enumerate(live)]
    entering, left = [], backbone.grid[0] * backbone.grid[1]
    for block in sorted(plan):
        if plan[block] < left:
            entering.append(left)
            left = plan[block]
    return Work(tuple(live), tuple(keys), tuple(entering))


def segments(backbone: ReducingBackbone) -> dict[int, list[int]]:
    """For each block with a reducer, the blocks that see what its step keeps."""
    sites = sorted(int(block) for block in backbone.reducers)
    before = any(reducer.site == "before" for reducer in backbone.reducers.values())
    steps = steps_of_blocks(dict.fromkeys(sites, 0), backbone.depth, before, backbone.num_restored)
    return {site: [i for i, step in enumerate(steps) if step == site] for site in sites}
