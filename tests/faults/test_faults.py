"""Every fault ends as its row says, and the table of them tells endings apart."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from page import ROOT, shown, write_page
from row import Outcome, Row, all_rows, outcome

from cropr_mm.engine.preflight import SetupError


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
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


def test_messages_say_nothing_of_this_machine(tmp_path: Path) -> None:
    message = (
        f"11/29 16:10:41 - mmengine - WARNING - {tmp_path}/run/a.pth\n  in 20261129_161332 "
        f"of {ROOT}/cropr_mm/x.py, process 12 on host: wait (raised in /a/b.py:3)"
    )
    wanted = "run/a.pth in <time> of cropr_mm/x.py, process <id> on <host>: wait"
    assert shown(message, tmp_path) == wanted


def test_a_page_holds_all_rows_by_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- faults -->\nold\n<!-- end of faults -->\nafter\n")
    monkeypatch.setattr("page.PAGE", file)
    rows = [
        Row(n, s, "it", "", raises(KeyError())) for n, s in (("a", "X"), ("b", "Y"), ("c", "X"))
    ]
    write_page(rows, [Outcome("clear", "a|b <c>")] * 3)
    lines = file.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    order = [line.split(" | ")[0] for line in lines if line.startswith("| it") or "**" in line]
    assert order == ["| **X**", "| it (`a`)", "| it (`c`)", "| **Y**", "| it (`b`)"]
    assert r"a\|b &lt;c>" in file.read_text()
