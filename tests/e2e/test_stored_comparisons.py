"""What is asked of stored models: agreement of features, padding, encoder speed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from cropr_mm.datasets import DemoSettings, make_demo_data
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.encoder_speed import encoder_speed
from experiments.feature_agreement import feature_agreement
from experiments.runs import PRETRAINING, ROOT, Run, make_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the command compare leaves it, with random weights and three test images."""
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "data"
    make_demo_data(data, DemoSettings(num_train=2, num_val=3))
    init_default_scope("mmdet")
    for name in (PRETRAINING, "random"):
        run = Run("digits", 0, name, folder / f"digits/seed0/{name}")
        cfg = make_config(run, BENCHMARK_TASKS["digits"], None)
        cfg.test_dataloader.dataset.data_root = str(data)
        cfg.test_evaluator.ann_file = str(data / "annotations/instances_val.json")
        cfg.test_dataloader.batch_size = 2
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        checkpoint = run.folder / "train/iter_1.pth"
        checkpoint.parent.mkdir(parents=True)
        torch.save({"state_dict": model.state_dict(), "meta": {}}, checkpoint)
        (checkpoint.parent / "last_checkpoint").write_text(str(checkpoint))
        cfg.dump(run.config)
    return folder


def dense(folder: Path) -> Run:
    return Run("digits", 0, PRETRAINING, folder / f"digits/seed0/{PRETRAINING}")


def test_features_agree_fully_where_nothing_is_pruned(folder: Path) -> None:
    nothing = dict(schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={2: 256}))
    distances = feature_agreement(
        dense(folder), BENCHMARK_TASKS["digits"], {"none": nothing, "pruned": {}}
    )
    assert distances["none"].shape == (3,)
    assert distances["none"] == pytest.approx(np.zeros(3), abs=1e-9)
    assert (distances["pruned"] > 1e-5).all()


def test_orders_are_compared_on_every_test_image(folder: Path) -> None:
    said = call("orders", "--runs", folder, "--benchmarks", "digits", "--seeds", "0")
    found = json.loads((folder / "orders.json").read_text())["digits"]
    assert list(found) == [f"{o}, {r}" for o in ("window", "raster") for r in ("origin", "slot")]
    values = np.array(list(found.values()))
    assert values.shape == (4, 1, 3)
    assert len({tuple(v) for v in values[:, 0].tolist()}) == 4, "the arguments make a difference"
    for name, value in zip(found, values, strict=True):
        gap = (value - values[0]).mean()
        assert f"| {name} | {value.mean():.3f} ({value.mean():.3f}) | {gap:+.4f}" in said


def test_padding_leaves_first_if_it_shall(folder: Path) -> None:
    """The digits' pictures are not padded, so that no padding can be kept."""
    said = call(
        "padding", "--runs", folder, "--benchmark", "digits", "--variants", "random",
        "--seeds", "0",
    )  # fmt: skip
    found = json.loads((folder / "padding.json").read_text())["random"]
    for value in ("False", "True"):
        (seed,) = found[value]
        assert set(seed) == {"padding", "box AP", "mask AP"}
        assert f"| random | {value} | {seed['padding']:.1f} (" in said


def test_models_that_are_missing_are_named_before_any_work(folder: Path) -> None:
    arguments = ["orders", "--runs", str(folder), "--benchmarks", "digits", "--seeds", "0", "7"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/pruners.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "seed7" in result.stderr
    assert "Traceback" not in result.stderr


def test_encoders_are_timed_against_the_dense_one(folder: Path) -> None:
    runs = {
        "dense": dense(folder),
        "random": Run("digits", 0, "random", folder / "digits/seed0/random"),
    }
    speed = encoder_speed(runs, batch_size=2, rounds=5, compile=True)
    names = {"dense", "random", "dense, compiled", "random, compiled"}
    assert set(speed["functions"]) == names
    assert speed["compiled"]["dense"]["value"] == 1.0
    times = {name: speed["functions"][name]["median_ms"] for name in names}
    allowed = times["dense, compiled"] / times["random, compiled"]
    assert speed["compiled"]["random"]["value"] == pytest.approx(allowed)
    assert speed["functions"]["dense"]["speedup"]["value"] == 1.0
    assert speed["functions"]["random"]["speedup"]["value"] > 0
    assert speed["images_per_call"] == 2
    assert speed["dtype"] == "float32"


def call(*args: object) -> str:
    """What ``benchmarks/pruners.py`` prints."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/pruners.py"), *map(str, args)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
