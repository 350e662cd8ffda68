"""Auxiliary gradients are clipped by their own norm and leave those of the model alone."""

import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.optim.clip_groups import auxiliary_parameters

ARCH = dict(embed_dim=8, depth=4, num_heads=2, patch_size=8, img_size=32)
CONSTRUCTORS = {
    "default": dict(),
    "default with groups": dict(paramwise_cfg=dict(norm_decay_mult=0.0)),
    "layer decay": dict(
        constructor="cropr_mm.LayerDecayConstructor", paramwise_cfg=dict(decay_rate=0.8)
    ),
}


def detector(**changes: object) -> nn.Module:
    backbone = dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 8, 1: 4}),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    backbone.update(changes)
    model = nn.Module()
    model.backbone = CroprViT(ARCH, **backbone)
    model.head = nn.Linear(8, 3)
    return model


def wrap(model: nn.Module, kind: str = "CroprOptimWrapper", **changes: object):
    cfg = dict(
        type=f"cropr_mm.{kind}",
        optimizer=dict(type="SGD", lr=1.0, weight_decay=0.0),
        clip_grad=dict(max_norm=1.0),
    )
    cfg.update(changes)
    return build_optim_wrapper(model, cfg)


def norm(parameters: list[nn.Parameter]) -> float:
    return math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters))


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters by name: those of the model, those of its reducers."""
    named = list(model.named_parameters())
    return [p for n, p in named if ".reducers." not in n], [
        p for n, p in named if ".reducers." in n
    ]


def fill(parameters: list[nn.Parameter], total: float) -> None:
    """Random gradients with the given global norm."""
    for p in parameters:
        p.grad = torch.randn_like(p)
    factor = total / norm(parameters)
    for p in parameters:
        p.grad.mul_(factor)


def test_all_parameters_of_cropr_modules_are_auxiliary_and_no_others() -> None:
    model = detector()
    assert set(auxiliary_parameters(model)) == set(split(model)[1])
    assert len(auxiliary_parameters(model)) == 2 * 11
    assert auxiliary_parameters(nn.Linear(2, 2)) == []
    model.backbone.switch_to_deploy()
    assert auxiliary_parameters(model) == []


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_each_group_is_clipped_by_its_own_norm(constructor: str) -> None:
    torch.manual_seed(0)
    model = detector()
    wrapper = wrap(model, **CONSTRUCTORS[constructor])
    wrapper.initialize_count_status(model, 0, 10)
    main, auxiliary = split(model)
    fill(main, 0.5)
    fill(auxiliary, 100.0)
    before = [p.grad.clone() for p in main]
    wrapper.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(main, before, strict=True))
    assert norm(auxiliary) == pytest.approx(1.0, rel=1e-4)
    scalars = MessageHub.get_current_instance().log_scalars
    assert scalars["train/grad_norm"].current() == pytest.approx(0.5, rel=1e-4)
    assert scalars["train/grad_norm_auxiliary"].current() == pytest.approx(100.0, rel=1e-4)

    fill(main, 10.0)
    fill(auxiliary, 0.5)
    wrapper.step()
    assert norm(main) == pytest.approx(1.0, rel=1e-4)
    assert norm(auxiliary) == pytest.approx(0.5, rel=1e-4)


def test_mixed_precision_wrapper_unscales_and_clips_both_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its base insists on an accelerator; everything below runs on the CPU as well.
    monkeypatch.setattr(
        "mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: True
    )
    torch.manual_seed(0)
    model = detector()
    wrapper = wrap(model, "CroprAmpOptimWrapper", dtype="bfloat16")
    wrapper.initialize_count_status(model, 0, 10)
    main, auxiliary = split(model)
    fill(main, 0.5)
    fill(auxiliary, 100.0)
    wrapper.step()
    assert norm(main) == pytest.approx(0.5, rel=1e-4)
    assert norm(auxiliary) == pytest.approx(1.0, rel=1e-4)


def test_clipping_by_value_works_too() -> None:
    model = detector()
    wrapper = wrap(model, clip_grad=dict(type="value", clip_value=0.1))
    wrapper.initialize_count_status(model, 0, 10)
    for group in split(model):
        fill(group, 100.0)
    wrapper.step()
    assert max(p.grad.abs().max().item() for p in model.parameters()) == pytest.approx(0.1)


@pytest.mark.parametrize("changes", [dict(reducer=None, schedule=None, fusion=None), "no backbone"])
def test_models_without_auxiliary_parameters_are_clipped_as_usual(changes: dict | str) -> None:
    model = nn.Linear(4, 4) if isinstance(changes, str) else detector(**changes)
    wrapper = wrap(model)
    wrapper.initialize_count_status(model, 0, 10)
    fill(list(model.parameters()), 100.0)
    wrapper.step()
    assert norm(list(model.parameters())) == pytest.approx(1.0, rel=1e-4)


def test_parameters_without_gradient_are_skipped() -> None:
    model = detector()
    wrapper = wrap(model)
    wrapper.initialize_count_status(model, 0, 10)
    main, auxiliary = split(model)
    fill(main, 5.0)
    wrapper.step()
    assert norm(main) == pytest.approx(1.0, rel=1e-4)
    assert all(p.grad is None for p in auxiliary)


def test_clipping_without_knowing_the_model_raises() -> None:
    model = detector()
    wrapper = wrap(model)
    fill(list(model.parameters()), 1.0)
    with pytest.raises(RuntimeError, match="initialize_count_status"):
        wrapper.step()


def test_without_clipping_the_model_need_not_be_known() -> None:
    model = detector()
    wrapper = wrap(model, clip_grad=None)
    fill(list(model.parameters()), 1.0)
    wrapper.step()


def test_an_optimizer_for_another_model_raises() -> None:
    wrapper = wrap(detector())
    with pytest.raises(
        ValueError, match="all 22 auxiliary parameters of the model, got one with 0"
    ):
        wrapper.initialize_count_status(detector(), 0, 10)
