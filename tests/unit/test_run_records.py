"""Records of finished runs: another machine takes them, and only where nothing differs."""

import json
from pathlib import Path

import numpy as np
import pytest

from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.comparison_report import score
from experiments.run_records import Values, take_record, taken_values, write_record
from experiments.runs import Run, make_config

SAMPLES = np.linspace(48.1234, 52.4321, 5).round(4)
VALUES = Values({"mIoU": 50.0}, {"mIoU": SAMPLES}, {"Car": 61.5, "Sky": 38.5})
RESULT = dict(metrics={"mIoU": 50.0}, seconds_per_iteration=1.5, iterations=90)


def machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, str]:
    """A run that this machine may make, and its config; each machine has folders of its own."""
    monkeypatch.setenv("CROPR_DATA_ROOT", str(folder / "data"))
    monkeypatch.setenv("CROPR_WEIGHTS_ROOT", str(folder / "weights"))
    run = Run("camvid_dinov2s", 3, "random", folder / "out/camvid_dinov2s/seed3/random")
    start = run.folder.parent / "pretraining/train/iter_240.pth"
    return run, make_config(run, BENCHMARK_TASKS[run.benchmark], start).pretty_text


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What one machine wrote."""
    run, text = machine(tmp_path / "one", monkeypatch)
    run.folder.mkdir(parents=True)
    run.config.write_text(text)
    (run.folder / "result.json").write_text(json.dumps(RESULT))
    write_record(run, VALUES, tmp_path / "records")
    return tmp_path / "records"


@pytest.mark.parametrize("indent", ["", "\n    "], ids=["same", "longer_paths_break_lines"])
def test_another_machine_takes_a_record(
    indent: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    text = text.replace("data_root=", f"data_root={indent}")
    assert taken_values(run) is None
    assert take_record(run, text, 5, records) is None
    assert run.result == RESULT
    assert run.config.read_text() == text, "with the paths of the second machine"
    taken = taken_values(run)
    assert taken is not None
    assert (taken.whole, taken.by_class) == (VALUES.whole, VALUES.by_class)
    np.testing.assert_array_equal(taken.resampled["mIoU"], VALUES.resampled["mIoU"])
    assert str(tmp_path) not in next(records.rglob("*.json")).read_text()


@pytest.mark.parametrize(
    ("samples", "old", "new", "why"),
    [(500, "", "", "has 5 bootstrap samples, not 500"), (5, "max_iters=90", "max_iters=91", "=91")],
)
def test_a_record_of_something_else_is_not_taken(
    samples: int,
    old: str,
    new: str,
    why: str,
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    assert old in text
    said = take_record(run, text.replace(old, new), samples, records)
    assert said is not None
    assert why in said
    assert taken_values(run) is None
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("data", "weights"), [("photos/", "weights/"), ("photos", "photos/weights")]
)
def test_folders_of_data_may_be_anywhere(
    data: str, weights: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = machine(tmp_path / "two", monkeypatch)
    monkeypatch.setenv("CROPR_DATA_ROOT", f"{tmp_path}/{data}")
    monkeypatch.setenv("CROPR_WEIGHTS_ROOT", f"{tmp_path}/{weights}")
    start = run.folder.parent / "pretraining/train/iter_240.pth"
    text = make_config(run, BENCHMARK_TASKS[run.benchmark], start).pretty_text
    assert take_record(run, text, 5, records) is None
    assert taken_values(run) is not None


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"config": [], "result": {}, "whole": {}}'])
def test_a_damaged_record_is_named(
    text: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = machine(tmp_path / "two", monkeypatch)
    (file,) = records.rglob("*.json")
    file.write_text(text)
    with pytest.raises(SetupError, match="expected a record of a finished run"):
        take_record(run, config, 5, records)
    assert not run.folder.exists()


def test_a_record_of_another_training_is_replaced(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    run.folder.mkdir(parents=True)
    run.config.write_text(text.replace("max_iters=90", "max_iters=91"))
    (run.folder / "result.json").write_text(json.dumps(RESULT | dict(iterations=91)))
    (file,) = records.rglob("*.json")
    assert write_record(run, VALUES, records) == file
    assert json.loads(file.read_text())["result"]["iterations"] == 91


def test_other_numbers_of_samples_are_not_mixed(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    assert take_record(run, text, 5, records) is None
    assert score(run, 5).whole == VALUES.whole
    with pytest.raises(SetupError, match="expected 50 bootstrap samples, got 5"):
        score(run, 50)


def test_a_run_that_was_begun_here_is_finished_here(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    run.folder.mkdir(parents=True)
    run.config.write_text(text)
    assert take_record(run, text, 5, records) is None
    assert taken_values(run) is None
