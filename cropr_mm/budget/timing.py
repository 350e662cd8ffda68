"""Encoders of several plans timed in turn, in the form that will be deployed."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.budget.work import Plan, with_plan
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.forms import FORMATS, ExportedForm
from cropr_mm.profiling.compiled import Compiled
from cropr_mm.profiling.latency import Latencies, measure

FORMS = ("eager", "compile", *FORMATS)
ShowRounds = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Such as :func:`cropr_mm.engine.console.show_rounds`."""


def time_plans(
    backbone: CroprViT,
    plans: Mapping[str, Plan],
    form: str,
    images: Tensor,
    rounds: int,
    show_rounds: ShowRounds,
) -> Latencies:
    """Times of one call of the encoder under each plan.

    Encoders of all plans are open at once; in other runtimes each has weights of its own.

    Args:
        backbone: Encoder with reducers at the blocks of the plans.
        plans: By name.
        form: One of :data:`FORMS`.
        images: A batch, shape (B, 3, H, W), on the device that counts.
        rounds: Timed calls of each.
        show_rounds: Shows how many plans have their form, then how many rounds are done.

    Raises:
        SetupError: If the method has no form in that runtime, or images are not on the CPU.
        ExportError: If a package is missing.
    """
    if form in FORMATS and images.device.type != "cpu":
        raise SetupError(f"{form} is timed on the CPU: expected --device cpu, got {images.device}")
    with TemporaryDirectory() as folder, torch.inference_mode(form == "eager"), torch.no_grad():
        calls = {}
        with show_rounds(f"{len(plans)} encoders, {form}", len(plans)) as on_plan:
            for done, (name, plan) in enumerate(plans.items(), start=1):
                calls[name] = _call(with_plan(backbone, plan), form, images, Path(folder, name))
                on_plan(done)
        with show_rounds(f"times of {len(plans)} encoders", rounds) as on_round:
            return measure(
                calls, rounds=rounds, items=len(images), device=images.device, on_round=on_round
            )


def _call(encoder: CroprViT, form: str, images: Tensor, folder: Path) -> Callable[[], object]:
    if form == "eager":
        return lambda: encoder(images)
    if form == "compile":
        compiled = Compiled(encoder)
        compiled(images)  # compiles
        return lambda: compiled(images)
    exported = ExportedForm(encoder, form, folder)
    return lambda: exported(images)
