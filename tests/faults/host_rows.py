"""Processes that end, alone and side by side."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from row import Row
from tiny import edit_coco, tiny_config

from cropr_mm.checkpoints import safe_load
from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train

_WORKER = Path(__file__).with_name("worker.py")
_ROOT = Path(__file__).parents[2]
_PAIR = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# Six iterations with random numbers in the order of images and in the choice of tokens.
_SETTINGS: dict[str, Any] = dict(
    train_cfg__max_iters=6,
    train_dataloader__sampler=dict(type="InfiniteSampler", shuffle=True),
    model__backbone__reducer=dict(type="cropr_mm.RandomPruner"),
)


def _run(*arguments: object, pair: bool = False) -> int:
    """Run the worker, or two of them, print what they say, and return how they ended."""
    launcher = [*_PAIR, str(_WORKER)] if pair else [str(_WORKER)]
    options = ["--launcher", "pytorch"] if pair else []
    result = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
    )
    print(result.stdout, result.stderr)
    return result.returncode


def _ended(folder: Path, point: str, pair: bool = False) -> Path:
    """A training that ended at a point in 'run'; the config of one that does not."""
    hook = dict(type="EndAt", point=point)
    ending = tiny_config(folder, "cls", **_SETTINGS, custom_hooks=[hook])
    code = _run(ending, "--work-dir", folder / "run", pair=pair)
    assert code != 0
    return tiny_config(folder, "cls", **_SETTINGS)


def _interrupted(folder: Path, point: str) -> str:
    config = _ended(folder, point)
    for work_dir, resume in (("run", "auto"), ("whole", None)):
        train(load_config(str(config), str(folder / work_dir)), resume)
    resumed, whole = (safe_load(folder / name / "iter_6.pth") for name in ("run", "whole"))
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"], whole["optimizer"], rtol=0, atol=0)
    return "weights and optimizer are those of a training without it, bit by bit"


def _killed_in_validation(folder: Path) -> str:
    config = _ended(folder, "validation")
    train(load_config(str(config), str(folder / "run")), "auto")
    assert safe_load(folder / "run/iter_6.pth")["meta"]["iter"] == 6
    return "went on from the checkpoint before it to the end"


def _killed_rank(folder: Path) -> str:
    config = _ended(folder, "rank", pair=True)
    assert _run(config, "--work-dir", folder / "run", "--resume", pair=True) == 0
    assert safe_load(folder / "run/iter_6.pth")["meta"]["iter"] == 6
    return "two processes went on to the end"


def _different_ranks(folder: Path, edit: Callable[[dict[str, Any]], None], **changes: Any) -> str:
    """Train on two processes; the second sees images 1 and 3 only."""
    edit_coco(folder, edit)
    config = tiny_config(folder, "det", **changes)
    assert _run(config, "--work-dir", folder / "run", pair=True) == 0
    weights = safe_load(folder / "run/iter_2.pth")["state_dict"].values()
    assert all(value.isfinite().all() for value in weights)
    return "two processes trained to the end with finite weights"


def _no_objects(content: dict[str, Any]) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] % 2 == 0]


def _wide_images(folder: Path) -> str:
    def edit(content: dict[str, Any]) -> None:
        for image in content["images"][1::2]:
            file = str(folder / "det" / image["file_name"])
            cv2.imwrite(file, np.pad(cv2.imread(file), ((0, 0), (0, 32), (0, 0))))
            image["width"] = 96

    # Validation shrinks wide images to 48 patches, which the rate alone would use up.
    schedule = dict(type="cropr_mm.ConstantRate", rate=16, min_keep=8)
    return _different_ranks(
        folder,
        edit,
        model__data_preprocessor__pad_size_divisor=8,
        model__backbone__schedule=schedule,
    )


HOSTS = "Processes that end, and several of them"
ROWS = [
    Row(
        f"killed-{point}",
        HOSTS,
        f"the process is killed {when}",
        says,
        partial(_interrupted, point=point),
        "recovered",
        slow=True,
    )
    for point, when, says in (
        ("iteration", "in an iteration", "Load checkpoint from .*iter_2"),
        ("save", "when half of a checkpoint is written", "Load checkpoint from .*iter_2"),
    )
]
ROWS += [
    Row(
        "killed-validation",
        HOSTS,
        "the process is killed in a validation",
        "validation after iter_4.pth did not end",
        _killed_in_validation,
        "recovered",
        slow=True,
    ),
    Row(
        "ctrl-c",
        HOSTS,
        "Ctrl-C in an iteration",
        "interrupted; a training goes on with --resume",
        partial(_interrupted, point="ctrl-c"),
        "recovered",
        slow=True,
    ),
    Row(
        "rank-killed",
        HOSTS,
        "one of two processes is killed",
        "Load checkpoint from .*iter_2",
        _killed_rank,
        "recovered",
        slow=True,
    ),
    Row(
        "rank-objects",
        HOSTS,
        "one of two processes has no objects",
        "Trained",
        partial(_different_ranks, edit=_no_objects),
        "recovered",
        slow=True,
    ),
    Row(
        "rank-sizes",
        HOSTS,
        "two processes have images of other sizes",
        "Trained",
        _wide_images,
        "recovered",
        slow=True,
    ),
]
