"""The generated tables of the documents are current."""

from pathlib import Path

import pytest

from tables import TABLES
from tables.blocks import ROOT, documents, render
from tables.configs import CONFIGS, FOLDERS, command, encoder, metafile, paths
from tables.methods import fusions

LONG = ("schedules.md",)  # counts operations at many settings, for most of a minute
DOCUMENTS = [
    pytest.param(
        path,
        marks=[pytest.mark.slow] if path.is_relative_to(CONFIGS) or path.name in LONG else [],
        id=str(path.relative_to(ROOT)),
    )
    for path in documents()
]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_tables_are_current(path: Path) -> None:
    text = path.read_text()
    assert render(text, TABLES) == text, "make docs writes them anew"


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_metafiles_are_current(folder: str) -> None:
    text = (CONFIGS / folder / "metafile.yml").read_text()
    assert metafile(folder) == text, "make docs writes them anew"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_config_is_in_its_table_with_its_command(folder: str) -> None:
    lines = (CONFIGS / folder / "README.md").read_text().splitlines()
    linked = {
        (CONFIGS / folder / line.partition("](")[2].partition(")")[0]).resolve(): line
        for line in lines
        if line.startswith("| [")
    }
    assert set(linked) == set(paths(folder))
    assert all(f"| `{command(path)}` |" in line for path, line in linked.items())


@pytest.mark.parametrize(
    ("name", "gmac", "pruned"),
    [("cropr_eva02_cascade_coco", 1273.0, 0.972), ("unpruned_eva02_cascade_coco", 2789.9, 0.0)],
)
def test_costs_are_the_published_ones(name: str, gmac: float, pruned: float) -> None:
    cost = encoder(CONFIGS / f"{name}.py")
    assert cost.macs / 1e9 == pytest.approx(gmac, abs=0.1)
    assert cost.pruned == pytest.approx(pruned, abs=1e-3)


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
    published = [row for row in rows if "Shortcut" not in row[0]]  # which is ours
    assert len(published) == len(rows) - 1 == 7
    for _, gmac, published_gmac, millions, published_millions, _ in published:
        assert float(gmac) == pytest.approx(float(published_gmac), abs=0.6)
        assert float(millions) == pytest.approx(float(published_millions), abs=0.6)
