"""The tables of docs/results say what the stored comparisons say."""

import json
from pathlib import Path

import pytest

from experiments.report import format_tables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "document"),
    [
        ("compare_camvid_small.json", "methods.md"),
        ("compare_camvid_small_seeds.json", "methods.md"),
        ("compare_trashnet_small.json", "methods.md"),
        ("compare_digits_methods.json", "methods.md"),
        ("compare_camvid.json", "segmentation.md"),
        ("compare_digits_seg.json", "segmentation.md"),
        ("compare_digits_strokes.json", "segmentation.md"),
        ("compare_trashnet.json", "classification.md"),
    ],
)
def test_every_row_is_shown(file: str, document: str) -> None:
    record = json.loads((ROOT / "benchmarks/results" / file).read_text())
    lines = (ROOT / "docs/results" / document).read_text().splitlines()
    rows = [line for line in format_tables(record).splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert [row for row in rows if row not in lines] == []
