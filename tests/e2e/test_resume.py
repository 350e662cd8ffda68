"""A resumed training is the one that was not interrupted, or says in a line what differs."""

import copy
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_config

from cropr_mm.checkpoints import safe_load

AUGMENT = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomCrop", crop_size=64, padding=8),
    dict(type="PackInputs"),
]
EPOCHS = dict(
    train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=3, val_interval=1),
    default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, by_epoch=True)),
)
ITERATIONS = dict(
    train_cfg=dict(max_iters=6, val_interval=2),
    train_dataloader=dict(sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=False)),
)
DRAWS: dict[str, dict[str, Any]] = {
    "augmentation": dict(train_dataloader=dict(dataset=dict(pipeline=AUGMENT))),
    "random pruner": dict(model=dict(backbone=dict(reducer=dict(type="cropr_mm.RandomPruner")))),
    "order of images": dict(
        train_dataloader=dict(sampler=dict(shuffle=True)), randomness=dict(seed=None)
    ),
}


def config_of(root: Path, *changes: dict[str, Any]) -> Path:
    """The tiny classifier's config, changed."""
    file = write_config(root, "cls")
    cfg = Config.fromfile(file)
    for change in changes:
        cfg.merge_from_dict(copy.deepcopy(change))
    cfg.train_dataloader.batch_size = 2
    cfg.dump(file)
    return file


def copy_until(folder: Path, target: Path, name: str) -> Path:
    """A copy of a working folder as it was when a checkpoint had been written."""
    target.mkdir()
    shutil.copy(folder / name, target)
    shutil.copy(folder / "random_states.pth", target)
    (target / "last_checkpoint").write_text(str(folder / name))
    return target


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(
    ("loop", "middle", "end"),
    [(ITERATIONS, "iter_4.pth", "iter_6.pth"), (EPOCHS, "epoch_2.pth", "epoch_3.pth")],
)
def test_random_numbers_go_on(
    loop: dict,
    middle: str,
    end: str,
    draws: str,
    root: Path,
    tool: Callable[..., str],
    tmp_path: Path,
) -> None:
    config = config_of(root, loop, DRAWS[draws])
    tool("train.py", config, "--work-dir", tmp_path / "whole")
    target = copy_until(tmp_path / "whole", tmp_path / "half", middle)
    random.seed(1)
    torch.manual_seed(1)
    output = tool("train.py", config, "--work-dir", target, "--resume")
    assert "start anew" not in output
    whole, resumed = (safe_load(tmp_path / name / end) for name in ("whole", "half"))
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"], whole["optimizer"], rtol=0, atol=0)
