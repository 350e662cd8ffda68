"""A runner around one tiny encoder that says how much it reduced in each forward pass."""

from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from cropr_mm import CroprViT


class Model(BaseModel):
    """Encoder and linear head; writes down the progress of each forward pass."""

    def __init__(self, **backbone: Any) -> None:
        super().__init__()
        pruning = dict(
            reducer=dict(type="cropr_mm.RandomPruner"),
            schedule=dict(type="cropr_mm.ConstantRate", rate=2),
        )
        arch = dict(embed_dim=8, depth=3, num_heads=2, patch_size=4, img_size=16)
        self.backbone = CroprViT(**{"arch": arch, "out_type": "avg_featmap", **pruning, **backbone})
        self.head = nn.Linear(8, 1)
        self.seen: list[tuple[str, float]] = []

    def forward(self, inputs: Tensor, mode: str = "tensor") -> Any:
        self.seen.append((mode, self.backbone.progress))
        out = self.head(self.backbone(inputs)[0])
        return dict(loss=out.square().mean()) if mode == "loss" else [out]


class Images(torch.utils.data.Dataset):
    """Two images."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return dict(inputs=torch.ones(3, 16, 16) * i)


LOADER = dict(
    dataset=Images(),
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
EPOCHS = dict(by_epoch=True, max_epochs=6, val_interval=2)
ITERS = dict(by_epoch=False, max_iters=6, val_interval=2)


def make_runner(work_dir: Path, hook: dict, train_cfg: dict, **changes: Any) -> Runner:
    """Runner with one hook, whose ``type`` is a curriculum unless it says otherwise."""
    init_default_scope("mmengine")
    by_epoch = train_cfg["by_epoch"]
    arguments: dict[str, Any] = dict(
        model=Model(),
        work_dir=str(work_dir),
        experiment_name=f"{work_dir.name}-{id(hook)}",
        # At the end of a finite sampler, loops of iterations wait for seconds.
        train_dataloader=LOADER if by_epoch else dict(LOADER, sampler=dict(type="InfiniteSampler")),
        train_cfg=train_cfg,
        val_dataloader=LOADER,
        val_cfg=dict(),
        val_evaluator=Evaluator([]),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=by_epoch)),
        custom_hooks=[{"type": "cropr_mm.CroprCurriculumHook", **hook}],
        log_level="ERROR",
    )
    return Runner(**(arguments | changes))


def seen(runner: Runner, mode: str) -> list[float]:
    """Progress of each forward pass in a mode."""
    return [progress for name, progress in runner.model.seen if name == mode]
