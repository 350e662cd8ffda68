"""The demo, with few iterations: what it writes, that it resumes, that missed thresholds fail."""

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.demo import TASKS
from cropr_mm.demo import run as demo
from cropr_mm.demo.demo_report import check_thresholds
from cropr_mm.engine.evaluate import evaluate

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/demo"
DET = TASKS["det"]
TITLES = ("box AP50", "mask AP50", "tokens pruned", "encoder", "model", "train", "pictures")
BOTH_AP = ["coco/bbox_mAP_50", "coco/segm_mAP_50"]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def run(
    tmp_path: Path,
    work_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> Run:
    """Runs a short demo; returns its exit code and what the console showed."""
    data = tmp_path / "data"
    facts = make_demo_data(data, DemoSettings(num_train=4, num_val=3))
    monkeypatch.setattr(demo, "make_demo_data", lambda _: facts)
    monkeypatch.setattr(demo, "_use_cores", lambda _: 1)
    monkeypatch.setattr(demo, "evaluate", partial(evaluate, rounds=1))
    config = tmp_path / "config.py"

    def call(score_thr: float = 0.05) -> tuple[int, str]:
        config.write_text(
            f"""
_base_ = {str(CONFIGS / DET.config)!r}
train_cfg = dict(max_iters=3)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
custom_hooks = [*_base_.custom_hooks[:1], dict(type="cropr_mm.PruningMapHook", interval=1)]
model = dict(test_cfg=dict(rcnn=dict(score_thr={score_thr})))
train_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data)!r}))
test_dataloader = dict(batch_size=1, dataset=dict(data_root={str(data)!r}))
test_evaluator = dict(ann_file={str(data / "annotations/instances_val.json")!r})
"""
        )
        capfd.readouterr()
        code = demo.run_demo(replace(DET, config=config.name), tmp_path, work_dir)
        return code, capfd.readouterr().out

    return call


def test_three_iterations_break_the_promise_but_show_everything(run: Run, work_dir: Path) -> None:
    code, text = run()
    assert code == 1
    assert text.count("BROKEN") == 2
    assert all(title in text for title in TITLES)
    assert len(text.splitlines()) < 60
    record = json.loads((work_dir / "demo.json").read_text())
    assert record["broken"] == BOTH_AP
    assert record["metrics"]["pruned"] >= 0.85
    assert len([*(work_dir / "vis").glob("*.png")]) == 3
    assert cv2.imread(str(work_dir / "pictures.png")).shape[1] > 1000

    (work_dir / "demo.json").unlink()  # interrupted before the end of the training: it goes on
    (work_dir / "iter_3.pth").unlink()
    second = work_dir / "iter_2.pth"
    (work_dir / "last_checkpoint").write_text(str(second))
    code, text = run()
    assert code == 1
    assert f"going on from {second}" in text
    assert "iterations 3 to 3" in text


@pytest.mark.slow
def test_a_run_does_what_the_last_one_left(run: Run, work_dir: Path) -> None:
    run()
    _, text = run()  # finished: the next run starts anew
    assert "iterations 1 to 3" in text

    (work_dir / "demo.json").unlink()  # all but the test was done
    _, text = run()
    assert f"already trained: {work_dir / 'iter_3.pth'}" in text
    assert "  iterations" not in text

    (work_dir / "demo.json").unlink()  # another config, which finds nothing: anew, and reported
    code, text = run(score_thr=1.1)
    assert code == 1
    assert "iterations 1 to 3" in text
    assert text.count("BROKEN") == 2


@pytest.mark.parametrize("name", ["seg", "cls"])
def test_the_other_tasks_show_everything_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    data, work_dir, config = tmp_path / "data", tmp_path / "work", tmp_path / "config.py"
    facts = make_demo_data(data, DemoSettings(num_train=4, num_val=3))
    monkeypatch.setattr(demo, "make_demo_data", lambda _: facts)
    monkeypatch.setattr(demo, "_use_cores", lambda _: 1)
    monkeypatch.setattr(demo, "evaluate", partial(evaluate, rounds=1))
    task = TASKS[name]
    config.write_text(
        f"""
_base_ = {str(CONFIGS / task.config)!r}
train_cfg = dict(max_iters=2)
train_dataloader = dict(batch_size=2, dataset=dict(data_root={str(data)!r}))
val_dataloader = test_dataloader = dict(batch_size=1, dataset=dict(data_root={str(data)!r}))
"""
    )
    assert demo.run_demo(replace(task, config=config.name), tmp_path, work_dir) == 1
    text = capfd.readouterr().out
    for title in (*task.metrics.values(), "tokens pruned", "encoder", "model"):
        assert title in text
    record = json.loads((work_dir / "demo.json").read_text())
    assert record["metrics"]["pruned"] >= task.thresholds["pruned"]
    assert record["broken"] == [name for name in task.thresholds if name != "pruned"]
    pictures = sorted((work_dir / "vis").glob("*.png"))
    assert len(pictures) == 3
    image = cv2.imread(str(pictures[0]))
    side = image.shape[1] // 2 - 4
    assert not np.array_equal(image[:side, :side], image[:side, -side:]), "map beside prediction"


def test_an_evaluator_without_metrics_breaks_both_promises_of_precision() -> None:
    result, broken = check_thresholds(DET, {}, [256, 24, 256])
    assert list(result) == [*DET.metrics, "pruned"]
    assert result["pruned"] == 1 - 24 / 256
    assert sum(result.values()) == result["pruned"]
    assert broken == BOTH_AP


def test_each_promise_is_judged() -> None:
    kept = dict.fromkeys(BOTH_AP, 0.5)
    assert check_thresholds(DET, kept, [100, 15])[1] == []
    assert check_thresholds(DET, kept, [100, 16])[1] == ["pruned"]
    assert check_thresholds(DET, {**kept, "coco/segm_mAP_50": 0.49}, [100, 15])[1] == [
        "coco/segm_mAP_50"
    ]
    assert check_thresholds(DET, {**kept, "coco/bbox_mAP_50": float("nan")}, [100, 15])[1] == [
        "coco/bbox_mAP_50"
    ]


def test_an_interrupt_needs_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "make_demo_data", interrupt)
    monkeypatch.setattr("sys.argv", ["demo.py", "--work-dir", str(tmp_path)])
    monkeypatch.chdir(tmp_path)  # the tool changes the folder; this puts it back
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "tools/demo.py"), run_name="__main__")
    assert error.value.code == 130
    assert "goes on from the last checkpoint" in capfd.readouterr().out
