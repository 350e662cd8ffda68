"""Every fault ends as its row says, and the table of them tells endings apart."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from row import Row, all_rows, outcome

from cropr_mm.engine.preflight import SetupError


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else [])
        for row in all_rows()
    ],
)
def test_fault_ends_as_its_row_says(row: Row, tmp_path: Path) -> None:
    folder = tmp_path / row.name
    folder.mkdir()
    end = outcome(row, folder)
    assert end.kind == row.expected, end.message


def test_names_are_unique() -> None:
    names = [row.name for row in all_rows()]
    assert len(names) == len(set(names))


def raises(error: Exception) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (raises(SetupError("expected a cat, got a dog")), "clear"),
        (raises(SetupError("expected a cat, got a cow")), "silent"),
        (raises(KeyError("dog")), "traceback"),
        (lambda folder: None, "silent"),
        (lambda folder: warnings.warn("the dog is left out", stacklevel=1), "clear"),
        (lambda folder: print("the dog\nis gone; went on") or "all weights are equal", "recovered"),
        (lambda folder: "all weights are equal", "silent"),
    ],
)
def test_endings_are_told_apart(run: Callable, kind: str, tmp_path: Path) -> None:
    assert outcome(Row("a", "b", "c", "dog", run), tmp_path).kind == kind
