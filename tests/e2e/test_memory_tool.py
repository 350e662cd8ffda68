"""benchmarks/speed.py memory from the command line."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tool: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(ROOT)
    return partial(tool, "benchmarks/speed.py", "memory")


def rows_of(file: Path) -> list[dict[str, Any]]:
    record = json.loads(file.read_text())
    assert record["command"].startswith("python benchmarks/speed.py memory ")
    return record["rows"]


def last_line(out: str) -> list[str]:
    return out.splitlines()[-3].split()


def test_a_detector_and_its_dense_twin(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    config = ROOT / "configs/demo/cropr_tiny_cascade_digits.py"
    out = run("model", config, "--objects", 3, "--dtype", "fp32", "--json", file)
    dense, pruned = rows_of(file)
    assert (dense["encoder"], pruned["encoder"]) == ("dense", "cropr, exact")
    assert pruned["weights"] > dense["weights"] == dense["weights_deployed"]
    assert pruned["training"] < dense["training"]
    total, base = (row["weights_deployed"] + row["test"] for row in (pruned, dense))
    assert last_line(out)[-1] == f"{total / base:.2f}"


def test_steps_over_batch_sizes(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "step.json"
    config = ROOT / "configs/segmentation/cropr_tiny_segmenter_camvid.py"
    out = run("step", config, "--batch-sizes", 1, 4, "--dtype", "fp32", "--json", file)
    rows = rows_of(file)
    assert [row["batch"] for row in rows] == [1, 1, 4, 4]
    assert all(row["optimizer"] == 2 * row["weights"] for row in rows)
    one, four = (
        [row["weights"] + row["step"] + row["optimizer"] for row in pair]
        for pair in (rows[:2], rows[2:])
    )
    assert four[1] / four[0] < one[1] / one[0], "modules weigh less beside more activations"
    assert last_line(out)[-1] == f"{four[1] / four[0]:.2f}"


def test_sizes_beside_the_analytic_model(run: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "size.json"
    arch = ("--arch", "vit_small_patch16_224", "--img-sizes", 64)
    out = run("size", *arch, "--batch-sizes", 8, "--dtype", "fp32", "--json", file)
    rows = rows_of(file)
    assert [row["encoder"] for row in rows] == ["dense", "R=1"]
    for row in rows:
        for kind in ("training", "test"):
            assert row[kind] == pytest.approx(row[f"analytic_{kind}"], rel=0.25)
    assert last_line(out)[0] == "64"


def test_recipes_and_the_gpus_that_have_their_memory(
    run: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, config = tmp_path / "recipes.json", "configs/demo/cropr_tiny_segmenter_digits.py"
    arguments = ("recipes", config, "--dtype", "fp32", "--json", file)
    run(*arguments, "--ways", "frozen")
    out = run(*arguments, "--ways", "frozen", "full", "--batch-sizes", 1, 2)
    assert out.count("batch 1, dense, full") == out.count("batch 2, cropr, frozen") == 1
    assert "batch 1, dense, frozen" not in out, "the file has it"
    rows = {(r["batch"], r["encoder"], r["trains"]): r for r in rows_of(file)}
    assert len(rows) == 8
    full, frozen = (rows[1, "cropr", way] for way in ("full", "frozen"))
    assert frozen["weights"] == full["weights"]
    assert 0 < frozen["optimizer"] < full["optimizer"], "reducers and head train"
    assert frozen["training"] < full["training"] < rows[2, "cropr", "full"]["training"]
    assert last_line(out)[-2:] == ["0.0", "(24)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("size", "--dtype", "amp", "--img-sizes", 64),
            "the analytic model has one precision: expected fp32, bf16 or fp16",
        ),
        (
            ("model", "configs/classification/cropr_vitb_cub.py"),
            "expected a detector of mmdet, got configs/classification/cropr_vitb_cub.py; see the "
            "command step",
        ),
    ],
)
def test_bad_input_is_one_line(
    run: Callable[..., str], arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == f"error: {message}"
