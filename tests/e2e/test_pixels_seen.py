"""Pixels of each class that trained segmenters still see."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from cropr_mm.datasets import DemoSettings, make_demo_data
from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.pixels_seen import PixelsSeen, pixels_seen
from experiments.runs import Run, make_config
from experiments.stored_runs import failures

Tool = Callable[..., str]
PRUNERS = "benchmarks/pruners.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs as the command compare leaves them, with random weights and three test images."""
    folder = tmp_path_factory.mktemp("runs")
    make_demo_data(folder / "data", DemoSettings(num_train=2, num_val=3))
    for name in ("cropr", "variance", "tome"):
        run = Run("digits_seg", 0, name, folder / f"digits_seg/seed0/{name}")
        cfg: Any = make_config(run, BENCHMARK_TASKS["digits_seg"], None)
        init_default_scope("mmseg")
        cfg.test_dataloader.dataset.data_root = str(folder / "data")
        cfg.test_dataloader.batch_size = 2
        torch.manual_seed(0)
        checkpoint = run.folder / "train/iter_1.pth"
        checkpoint.parent.mkdir(parents=True)
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, checkpoint)
        (checkpoint.parent / "last_checkpoint").write_text(str(checkpoint))
        cfg.dump(run.config)
    return folder


def test_pixels_are_those_of_patches_that_are_alive(folder: Path) -> None:
    """Against the variance of each patch and the label maps, read by hand."""
    found = pixels_seen(Run("digits_seg", 0, "variance", folder / "digits_seg/seed0/variance"))
    assert found.blocks == (0, 1, 2, 3, 4, 5)
    assert len(found.classes) == 11
    files = sorted((folder / "data/images/val").glob("*.png"))
    for image, file in enumerate(files):
        pixels = cv2.imread(str(file)).astype(np.float64)
        labels = cv2.imread(str(file).replace("images", "semantic"), cv2.IMREAD_UNCHANGED)
        patches = pixels.reshape(16, 8, 16, 8, 3).transpose(0, 2, 1, 3, 4).reshape(256, 64, 3)
        order = np.argsort(-patches.var(axis=1).mean(axis=1), kind="stable")
        for step in range(6):
            alive = np.zeros(256, dtype=bool)
            alive[order[: 256 - 37 * (step + 1)]] = True
            mask = alive.reshape(16, 16).repeat(8, 0).repeat(8, 1)
            for k in range(11):
                assert found.total[image, k] == (labels == k).sum()
                # One patch more or less where variances nearly tie.
                assert abs(found.seen[image, step, k] - (labels[mask] == k).sum()) <= 64


def test_shares_pool_the_pixels_of_images() -> None:
    seen = np.array([[[3, 0]], [[1, 0]]])  # two images, one step, two classes
    found = PixelsSeen(("a", "b"), (0,), seen, np.array([[4, 0], [6, 0]]))
    shares = found.shares(np.array([0, 1]))
    assert shares[0, 0] == 40.0
    assert np.isnan(shares[0, 1])
    assert found.shares(np.array([0, 0, 1]))[0, 0] == 50.0


def test_the_command_compares_pruners_with_cropr(folder: Path, tool: Tool) -> None:
    args = ["--runs", folder, "--seeds", "0", "--variants", "cropr", "variance"]
    out = tool(PRUNERS, "seen", *args)
    found = json.loads((folder / "digits_seg/seen.json").read_text())["digits_seg"]
    assert found["seeds"] == [0]
    ours, theirs = (found["variants"][name] for name in ("cropr", "variance"))
    for entry in (ours, theirs):
        steps = np.nanmean(entry["percent_seen"], axis=1)
        assert (np.diff(steps) <= 0).all(), "what left does not come back"
        assert entry["last_step"]["value"] == pytest.approx(steps[-1])
    gap = ours["last_step"]["value"] - theirs["last_step"]["value"]
    assert theirs["cropr_minus_it"]["value"] == pytest.approx(gap)
    assert "cropr_minus_it" not in ours
    assert "| variance | " in out


def test_merged_pixels_are_not_counted_as_gone(folder: Path) -> None:
    run = Run("digits_seg", 0, "tome", folder / "digits_seg/seed0/tome")
    with pytest.raises(SetupError, match="expects a method that drops tokens, got ToMe at block 1"):
        pixels_seen(run)


@pytest.fixture
def failed(folder: Path) -> Iterator[Path]:
    """The same runs; that of 'variance' is recorded as failed, and has no checkpoint to read."""
    run = folder / "digits_seg/seed0/variance"
    (run / "result.json").write_text('{"failed": "loss not finite at iteration 7"}')
    (run / "train").rename(run / "lost")
    yield folder
    (run / "result.json").unlink()
    (run / "lost").rename(run / "train")


@pytest.mark.parametrize("command", ["seen", "sizes"])
def test_runs_that_failed_have_a_line_that_says_so(failed: Path, tool: Tool, command: str) -> None:
    dense = failed / "digits_seg/seed0/dense"
    args = ["--runs", failed, "--seeds", "0", "--variants", "cropr", "variance"]
    if command == "sizes":
        args += ["--benchmark", "digits_seg", "--scales", "1"]
        dense.mkdir(exist_ok=True)  # the same model serves as dense
        for part in ("config.py", "train"):
            if not (dense / part).exists():
                (dense / part).symlink_to(failed / "digits_seg/seed0/cropr" / part)
    out = tool(PRUNERS, command, *args)
    assert "did not converge (seed 0: loss not finite at iteration 7)" in out
    record = json.loads((failed / f"digits_seg/{command}.json").read_text())
    record = record.get("digits_seg", record)
    assert list(record["failed"]) == ["variance"]
    scored = record["variants"] if "variants" in record else record["scales"]["1.0"]
    assert "cropr" in scored
    assert "variance" not in scored


def test_what_others_are_compared_with_has_to_have_converged(folder: Path) -> None:
    run = Run("digits_seg", 0, "cropr", folder / "digits_seg/seed0/cropr")
    assert failures([run]) == {}, "not finished is not failed"
    (run.folder / "result.json").write_text('{"failed": "found nothing"}')
    with pytest.raises(SetupError, match="expected cropr to have converged, got seed 0: found"):
        failures([run])
    (run.folder / "result.json").unlink()
