"""Where routers alone learn, nothing else has a gradient, a state or another mode."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.engine.preflight import SetupError, check_hooks
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook
from cropr_mm.hooks.router_hook import CroprRouterHook, freeze_all_but_routers, set_modes
from cropr_mm.targets import ClassTarget

CROPR = dict(type="cropr_mm.Cropr", num_classes=3)


class Classifier(nn.Module):
    """Encoder with stochastic depth, and a head with dropout and running statistics."""

    def __init__(self, **backbone: Any) -> None:
        super().__init__()
        settings: dict[str, Any] = dict(
            arch=dict(embed_dim=8, depth=4, num_heads=2, patch_size=4, img_size=16),
            out_type="avg_featmap",
            reducer=CROPR,
            schedule=dict(type="cropr_mm.ConstantRate", rate=4, absorb_prefix=False),
            fusion=dict(type="cropr_mm.LastLayerFusion"),
            drop_path_rate=0.5,
        )
        self.backbone = CroprViT(**{**settings, **backbone})
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.features: Tensor | None = None

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "loss") -> Any:
        self.features = self.backbone(inputs)[0]
        return dict(loss=self.head(self.features).square().mean())


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_only_reducers_learn(progress: float) -> None:
    torch.manual_seed(0)
    model = Classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze_all_but_routers(model)
    AuxiliaryListener(model, ClassTarget(num_classes=3))
    model.backbone.progress = progress
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    samples = [SimpleNamespace(gt_label=torch.tensor([i % 3])) for i in range(4)]
    images = torch.randn(4, 3, 16, 16)
    losses = []
    for _ in range(3):
        model.train()  # as train loops do
        set_modes(model)
        given = model(images, samples, mode="loss")
        losses.append(float(given["loss"]))
        assert not model.features.requires_grad
        assert not given["loss"].requires_grad
        sum(given.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        if progress == 0:
            assert losses[-1] == losses[0], "nothing is drawn, and the dense model stays"
    names = dict(model.named_parameters())
    learned = {name for name, p in names.items() if p in optimizer.state}
    assert learned == {name for name in names if ".reducers." in name}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (".reducers." not in name), name


def test_data_parallel_training_waits_for_no_frozen_parameter() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = Classifier()
        freeze_all_but_routers(model)
        AuxiliaryListener(model, ClassTarget(num_classes=3))
        wrapped = MMDistributedDataParallel(model)
        samples = [SimpleNamespace(gt_label=torch.tensor([0]))] * 2
        for _ in range(3):  # the second iteration raises where a gradient did not come
            wrapped.train()
            set_modes(wrapped)
            losses = wrapped(torch.randn(2, 3, 16, 16), samples, mode="loss")
            sum(losses.values()).backward()
            assert not model.head.training
        found = {name for name, p in model.named_parameters() if p.grad is not None}
        assert found == {name for name, _ in model.named_parameters() if ".reducers." in name}
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (dict(reducer=None, schedule=None, fusion=None), "got a model without"),
        (dict(reducer=dict(type="cropr_mm.VariancePruner")), "got VariancePruner"),
        (dict(reducer=dict(CROPR, stop_gradient=False)), "got Cropr"),
        (dict(reducer=dict(type="cropr_mm.DynamicViT")), "got DynamicViT"),
    ],
)
def test_what_learns_from_the_heads_is_refused(backbone: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprRouterHook(progress=1.0).check(Classifier(**backbone))


def test_bad_shares_and_two_that_decide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"progress in \[0, 1\] or None, got 2"):
        CroprRouterHook(progress=2)
    hooks = [
        CroprAuxLossHook(dict(type="cropr_mm.ClassTarget")),
        CroprCurriculumHook(by_epoch=False),
        CroprRouterHook(progress=0.5),
    ]
    with pytest.raises(SetupError, match="CroprCurriculumHook and CroprRouterHook"):
        check_hooks(Classifier(), hooks)
    hooks[-1] = CroprRouterHook(progress=None)
    check_hooks(Classifier(), hooks)
