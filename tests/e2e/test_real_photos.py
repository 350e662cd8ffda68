"""The configs of real photos, pruned and not: they train and test on the photos themselves."""

import json
import math
import os
from pathlib import Path

import pytest
from mmengine.config import Config
from shipped_configs import config_file

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.train import train

ROOT = Path(__file__).parents[2]
PHOTOS = Path(os.environ.get("CROPR_DATA_ROOT", "")) / "coco_person_mini"
CROPR_LOSSES = {"loss_cropr_b01", "loss_cropr_b03", "loss_cropr_b05"}
NUM_TEST = 4

pytestmark = pytest.mark.skipif(
    not os.environ.get("CROPR_DATA_ROOT") or not PHOTOS.is_dir(),
    reason="needs the folder coco_person_mini in CROPR_DATA_ROOT, which is "
    f"{os.environ.get('CROPR_DATA_ROOT') or 'not set'}",
)


@pytest.mark.parametrize("method", ["cropr", "unpruned"])
def test_trains_and_tests(method: str, tmp_path: Path) -> None:
    train(shortened(method, tmp_path))

    losses = read_losses(tmp_path)
    assert len(losses["loss"]) == 2
    assert all(math.isfinite(value) for values in losses.values() for value in values)
    assert {"loss_rpn_cls", "s0.loss_cls", "s2.loss_mask"} <= set(losses)
    cropr = {name for name in losses if "cropr" in name}
    assert cropr == (CROPR_LOSSES if method == "cropr" else set())

    metrics = evaluate(shortened(method, tmp_path), str(tmp_path / "iter_2.pth"))
    expected = {f"coco/{kind}_mAP{at}" for kind in ("bbox", "segm") for at in ("", "_50", "_75")}
    assert expected <= set(metrics)
    assert all(math.isfinite(metrics[name]) for name in expected)


def shortened(method: str, work_dir: Path) -> Config:
    """The config as it is, with two iterations of two photos and few photos to test."""
    path = config_file(f"{method}_tiny_cascade_coco_person")
    cfg = load_config(str(path), str(work_dir))
    assert Path(cfg.train_dataloader.dataset.data_root) == PHOTOS
    cfg.train_cfg.max_iters = 2
    cfg.train_dataloader.batch_size = 2
    cfg.test_dataloader.dataset.indices = NUM_TEST
    cfg.model.test_cfg.rcnn.score_thr = 0.0  # two iterations leave all scores low
    cfg.default_hooks.logger.interval = 1
    for key in ("val_dataloader", "val_evaluator", "val_cfg"):
        cfg[key] = None
    return cfg


def read_losses(work_dir: Path) -> dict[str, list[float]]:
    losses: dict[str, list[float]] = {}
    for file in work_dir.rglob("scalars.json"):
        for line in file.read_text().splitlines():
            for name, value in json.loads(line).items():
                if "loss" in name:
                    losses.setdefault(name, []).append(value)
    return losses
