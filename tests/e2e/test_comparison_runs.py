"""A run of the comparison: it trains and tests, goes on where it stopped, and is done once."""

from dataclasses import replace
from pathlib import Path

import pytest
from mmengine.config import Config

from cropr_mm.datasets import DemoSettings, make_demo_data
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.runs import Run, execute, make_config


@pytest.mark.slow
def test_interrupted_run_goes_on_and_a_finished_one_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_demo_data(data, DemoSettings(num_train=4, num_val=2))
    run = Run("digits", 0, "cropr", tmp_path / "run")

    execute(run, config(run, data))
    log = (run.folder / "train.txt").read_text()
    assert "Iter(train) [1/2]" in log
    assert "coco/bbox_mAP" in run.result["metrics"]
    assert 0 < run.result["mask_pixels_seen"] < 1
    assert (run.result["iterations"], run.result["seconds_per_iteration"] > 0) == (2, True)

    written = (run.folder / "result.json").stat().st_mtime_ns
    execute(run, config(run, data))
    assert (run.folder / "result.json").stat().st_mtime_ns == written, "done once"

    # As if it had been stopped after the first iteration.
    (run.folder / "result.json").unlink()
    (run.folder / "train/iter_2.pth").unlink()
    (run.folder / "train/last_checkpoint").write_text(str(run.folder / "train/iter_1.pth"))
    execute(run, config(run, data))
    log = (run.folder / "train.txt").read_text()
    assert "[1/2]" not in log
    assert "Iter(train) [2/2]" in log


def config(run: Run, data: Path) -> Config:
    """The variant as it is compared, for two iterations on few images."""
    cfg = make_config(run, replace(BENCHMARK_TASKS["digits"], finetune_iters=2), None)
    cfg.train_cfg.max_iters = 2
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1)
    cfg.default_hooks.logger.interval = 1
    for split in ("train", "test"):
        cfg[f"{split}_dataloader"].update(batch_size=2)
        cfg[f"{split}_dataloader"].dataset.data_root = str(data)
    cfg.test_evaluator.ann_file = str(data / "annotations/instances_val.json")
    return cfg
