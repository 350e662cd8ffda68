"""Processes that end, alone and side by side."""

import json
import signal
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from processes import train_apart
from row import Row
from tiny import edit_coco, tiny_config, train_tiny

from cropr_mm.checkpoints import safe_load
from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train

# Six iterations with random numbers in the order of images and in the choice of tokens.
_SETTINGS: dict[str, Any] = dict(
    train_cfg__max_iters=6,
    train_dataloader__sampler=dict(type="InfiniteSampler", shuffle=True),
    model__backbone__reducer=dict(type="cropr_mm.RandomPruner"),
    visualizer__vis_backends=[dict(type="LocalVisBackend")],  # keeps metrics
    default_hooks__logger__log_metric_by_epoch=False,
)
METRIC = "accuracy/top1"


def _ended(folder: Path, point: str, pair: bool = False) -> Path:
    """A training that ended at a point in 'run'; the config of one that does not."""
    hook = dict(type="EndAt", point=point)
    ending = tiny_config(folder, "cls", **_SETTINGS, custom_hooks=[hook])
    code = train_apart(ending, "--work-dir", folder / "run", pair=pair)
    assert code == (130 if point == "ctrl-c" else -signal.SIGKILL)
    assert (folder / "run/iter_2.pth").exists()
    assert not (folder / "run/iter_6.pth").exists()
    return tiny_config(folder, "cls", **_SETTINGS)


@cache
def _whole() -> TemporaryDirectory:
    """A training without interruption, in 'run', for all rows."""
    kept = TemporaryDirectory()
    folder = Path(kept.name)
    config = tiny_config(folder, "cls", **_SETTINGS)
    train(load_config(str(config), str(folder / "run")))
    return kept


def _interrupted(folder: Path, point: str) -> str:
    config = _ended(folder, point)
    train(load_config(str(config), str(folder / "run")), "auto")
    folders = (folder / "run", Path(_whole().name, "run"))
    resumed, whole = (safe_load(run / "iter_6.pth") for run in folders)
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(resumed["optimizer"], whole["optimizer"], rtol=0, atol=0)
    resumed, whole = map(_metrics, folders)
    assert [*whole] == [2, 4, 6]
    assert resumed == whole
    return "weights, optimizer and metrics are those of a training without it, bit by bit"


def _metrics(work_dir: Path) -> dict[int, float]:
    """Accuracy of each validation that ended, by iteration."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return {line["step"]: line[METRIC] for line in lines if METRIC in line}


def _killed_rank(folder: Path) -> str:
    config = _ended(folder, "rank", pair=True)
    assert train_apart(config, "--work-dir", folder / "run", "--resume", pair=True) == 0
    assert safe_load(folder / "run/iter_6.pth")["meta"]["iter"] == 6
    return "two processes went on to the end"


def _different_ranks(folder: Path, edit: Callable[[dict[str, Any]], None], **changes: Any) -> str:
    """Train on two processes; the second sees images 1 and 3 only."""
    edit_coco(folder, edit)
    config = tiny_config(folder, "det", **changes)
    assert train_apart(config, "--work-dir", folder / "run", pair=True) == 0
    weights = safe_load(folder / "run/iter_2.pth")["state_dict"].values()
    assert all(value.isfinite().all() for value in weights)
    return "two processes trained to the end with finite weights"


def _killed_loader(folder: Path) -> None:
    load = [dict(type="LoadImageFromFile"), dict(type="EndLoader"), dict(type="PackInputs")]
    train_tiny(
        folder,
        "cls",
        train_dataloader__num_workers=1,
        train_dataloader__dataset__pipeline=load,
    )


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
    )
    for point, when, says in (
        ("iteration", "in an iteration", "Load checkpoint from .*iter_2"),
        ("save", "when half of a checkpoint is written", "Load checkpoint from .*iter_2"),
        ("validation", "in a validation", "validation after iter_4.pth did not end: it starts"),
    )
]
ROWS += [
    Row(
        "ctrl-c",
        HOSTS,
        "Ctrl-C in an iteration",
        "interrupted; a training goes on with --resume",
        partial(_interrupted, point="ctrl-c"),
        "recovered",
    ),
    Row(
        "loader-killed",
        HOSTS,
        "a process that loads data is killed",
        "process that loads data ended; is the memory",
        _killed_loader,
    ),
    Row(
        "rank-killed",
        HOSTS,
        "one of two processes is killed",
        "Load checkpoint from .*iter_2",
        _killed_rank,
        "recovered",
    ),
    Row(
        "rank-objects",
        HOSTS,
        "one of two processes has no objects",
        "Trained",
        partial(_different_ranks, edit=_no_objects),
        "recovered",
    ),
    Row(
        "rank-sizes",
        HOSTS,
        "two processes have images of other sizes",
        "Trained",
        _wide_images,
        "recovered",
    ),
]
