"""The table of methods is complete and the one in the documents."""

from pathlib import Path

from cropr_mm.analysis.methods import method_table, registered_methods
from cropr_mm.reducers import SoftMerger, TokenMerger, TokenPruner, TokenRanker, TokenReducer

DOC = Path(__file__).parents[2] / "docs/methods.md"


def test_every_method_has_a_row() -> None:
    bases = {SoftMerger, TokenMerger, TokenPruner, TokenRanker, TokenReducer}
    rows = method_table().splitlines()[2:]
    names = [row.split("`")[1] for row in rows]
    assert names == [method.__name__ for method in registered_methods()]
    assert len(names) >= 14
    assert not bases & set(registered_methods())


def test_the_documents_show_the_table_as_it_is_made() -> None:
    assert method_table() in DOC.read_text()
