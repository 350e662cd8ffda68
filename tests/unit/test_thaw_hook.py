"""A part of a model rests for a number of epochs or iterations, then learns."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from cropr_mm import CroprViT
from cropr_mm.engine.preflight import SetupError, check_hooks
from cropr_mm.hooks.router_hook import CroprRouterHook
from cropr_mm.hooks.thaw_hook import ThawHook, check_wrapper

EPOCHS, BATCHES = 4, 2


class Digits(Dataset):
    """Four fixed vectors."""

    def __len__(self) -> int:
        return 2 * BATCHES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return dict(inputs=torch.randn(4, generator=torch.Generator().manual_seed(index)))


class Model(BaseModel):
    """A part that has modes, and a head; it lists the modes of its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0))
        self.head = nn.Linear(4, 1)
        self.modes: list[bool] = []

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "loss") -> Any:
        self.modes.append(self.backbone[1].training)
        return dict(loss=self.head(self.backbone(torch.stack(list(inputs)))).square().mean())


def train(folder: Path, hook: dict[str, Any], checkpoint: Path | None = None) -> Runner:
    torch.manual_seed(0)
    runner = Runner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2, dataset=Digits(), sampler=dict(type="DefaultSampler", shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.5)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1), logger=None),
        custom_hooks=[hook],
        load_from=checkpoint and str(checkpoint),
        resume=checkpoint is not None,
        experiment_name=f"thaw {hook} {folder.name}",
        log_level="ERROR",
    )
    runner.train()
    return runner


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "hook",
    [
        dict(type="cropr_mm.ThawHook", end=2),
        dict(type="cropr_mm.ThawHook", end=2 * BATCHES, by_epoch=False),
    ],
)
def test_a_part_rests_then_learns_also_when_resumed(tmp_path: Path, hook: dict) -> None:
    whole = train(tmp_path, hook)
    torch.manual_seed(0)
    start = Model()
    assert whole.model.modes == [False] * 2 * BATCHES + [True] * 2 * BATCHES
    early = torch.load(tmp_path / "epoch_2.pth", weights_only=False)["state_dict"]
    assert torch.equal(early["backbone.0.weight"], start.backbone[0].weight), "nor is it decayed"
    assert not torch.equal(early["head.weight"], start.head.weight)
    assert not same(whole.model.backbone, start.backbone)

    for epoch in (1, 2, 3):  # before, at and after the thaw
        resumed = train(tmp_path / str(epoch), hook, tmp_path / f"epoch_{epoch}.pth")
        assert resumed.model.modes == whole.model.modes[epoch * BATCHES :]
        assert same(resumed.model, whole.model)
        state = resumed.optim_wrapper.optimizer.state_dict()["state"]
        steps = [int(values["step"]) for values in state.values()]
        assert sorted(steps) == [2 * BATCHES] * 2 + [EPOCHS * BATCHES] * 2
        assert all(p.requires_grad for p in resumed.model.parameters())


def test_reducers_learn_from_the_start() -> None:
    encoder = CroprViT(
        arch=dict(embed_dim=8, depth=4, num_heads=2, patch_size=4, img_size=16),
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ConstantRate", rate=4, absorb_prefix=False),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    model = nn.ModuleDict(dict(backbone=encoder, head=nn.Linear(8, 3)))
    hook = ThawHook(end=1)

    runner: Any = SimpleNamespace(model=model, epoch=0, max_epochs=2, train_loop=None)
    hook.before_train(runner)
    hook.before_train_iter(runner, 0)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in model.named_parameters() if "reducers" in n or "head" in n}
    assert all(reducer.training for reducer in encoder.reducers.values())
    assert not encoder.blocks.training
    runner.epoch = 1
    hook.before_train_iter(runner, 0)
    assert encoder.blocks.training
    assert all(p.requires_grad for p in model.parameters())


def test_under_data_parallelism_unused_parameters_are_found(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="set find_unused_parameters=True in the config"):
            check_wrapper(MMDistributedDataParallel(Model()))
        model = MMDistributedDataParallel(Model(), find_unused_parameters=True)
        check_wrapper(model)
        for learns in (False, False, True):
            model.module.backbone.requires_grad_(learns)
            model.zero_grad(set_to_none=True)
            model(torch.ones(2, 4))["loss"].backward()
            grads = [p.grad for p in model.module.backbone.parameters()]
            assert all((grad is not None) == learns for grad in grads)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_part_that_never_thaws_is_named(tmp_path: Path, by_epoch: bool) -> None:
    length = EPOCHS if by_epoch else EPOCHS * BATCHES
    with pytest.warns(UserWarning, match=f"backbone never thaws: expected end below {length}"):
        train(tmp_path, dict(type="cropr_mm.ThawHook", end=length, by_epoch=by_epoch))


def test_what_cannot_thaw_is_refused() -> None:
    for end in (0, 1.5, "2"):
        with pytest.raises(ValueError, match=f"whole number of at least 1 as end, got {end!r}"):
            ThawHook(end=end)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"module of Model .*backbone, head.*, got 'encoder'"):
        ThawHook(end=1, part="encoder").check(Model())
    frozen = Model()
    frozen.backbone.requires_grad_(False)
    with pytest.raises(SetupError, match="expects trainable parameters in 'backbone', got none"):
        check_hooks(frozen, [ThawHook(end=1)])
    with pytest.raises(SetupError, match="CroprRouterHook and ThawHook"):
        check_hooks(Model(), [ThawHook(end=1), CroprRouterHook()])
