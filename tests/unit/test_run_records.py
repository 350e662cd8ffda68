"""Records of finished runs: another machine takes them, and only where nothing differs."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.run_records import Values, take_record, taken_values, write_record
from experiments.runs import Run, make_config

VALUES = Values({"mIoU": 50.0}, {"mIoU": np.linspace(48, 52, 5)}, {"Car": 61.5, "Sky": 38.5})
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


def test_a_run_that_was_begun_here_is_finished_here(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, text = machine(tmp_path / "two", monkeypatch)
    run.folder.mkdir(parents=True)
    run.config.write_text(text)
    assert take_record(run, text, 5, records) is None
    assert taken_values(run) is None
