"""Encoders of several plans timed in turn, in the form that will be deployed."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.budget.work import Plan, with_plan
from cropr_mm.profiling.latency import Latencies, measure

FORMS = ("eager", "compile")


def time_plans(
    backbone: CroprViT,
    plans: Mapping[str, Plan],
    form: str,
    images: Tensor,
    rounds: int,
    on_round: Callable[[int], object] | None = None,
) -> Latencies:
    """Times of one call of the encoder under each plan.

    Args:
        backbone: Encoder with reducers at the blocks of the plans.
        plans: By name.
        form: One of :data:`FORMS`.
        images: A batch, shape (B, 3, H, W), on the device that counts.
        rounds: Timed calls of each.
        on_round: Called after each round with the number of rounds done.
    """
    calls = {name: _call(backbone, plan, form, images) for name, plan in plans.items()}
    with torch.inference_mode(form == "eager"), torch.no_grad():
        return measure(
            calls, rounds=rounds, items=len(images), device=images.device, on_round=on_round
        )


def _call(backbone: CroprViT, plan: Plan, form: str, images: Tensor) -> Callable[[], object]:
    twin = with_plan(backbone, plan)
    if form == "eager":
        return lambda: twin(images)
    compiled = torch.compile(twin, dynamic=False)
    return lambda: compiled(images)
