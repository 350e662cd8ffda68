"""The generated tables of the documents are current."""

from pathlib import Path

import pytest

from tables import TABLES
from tables.blocks import ROOT, documents, render
from tables.methods import fusions


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_current(path: Path) -> None:
    text = path.read_text()
    assert render(text, TABLES) == text, "make docs writes them anew"


def test_a_block_is_replaced_and_the_rest_stays() -> None:
    text = "a\n<!-- table: sum 1 2 -->\nold\n<!-- end -->\nb\n"
    tables = {"sum": lambda *numbers: str(sum(map(int, numbers)))}
    after = render(text, tables)
    assert after == "a\n<!-- table: sum 1 2 -->\n\n3\n\n<!-- end -->\nb\n"
    assert render(after, tables) == after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: sum 1 -->\n", "expected a line '<!-- end -->'"),
        ("<!-- table: other -->\n<!-- end -->\n", "expected a table of sum, got 'other'"),
    ],
)
def test_wrong_blocks_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(text, {"sum": lambda: ""})


def test_fusions_cost_what_is_published() -> None:
    """Of the paper's table 5; the counted figures are those of the document."""
    rows = [line.strip("| ").split(" | ") for line in fusions().splitlines()[2:]]
    assert len(rows) == 7
    for _, gmac, published_gmac, millions, published_millions, _ in rows:
        assert float(gmac) == pytest.approx(float(published_gmac), abs=0.6)
        assert float(millions) == pytest.approx(float(published_millions), abs=0.6)
