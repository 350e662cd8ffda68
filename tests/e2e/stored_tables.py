"""Tables of the documents and the stored measurements they come from, as tests compare them."""

import json
from pathlib import Path
from typing import Any

from cropr_mm.profiling.latency import MIN_ROUNDS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results"


def record(name: str) -> dict[str, Any]:
    """A stored measurement, by its name without .json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def measured(name: str, batch: int = 1) -> dict[str, dict[str, Any]]:
    """Rows of a stored run of tools/benchmark.py, which must have had the machine to itself."""
    return rows_of_idle(record(name)["batches"][str(batch)])


def studied(name: str) -> list[dict[str, dict[str, Any]]]:
    """Rows of each group of a stored study, which must have had the machine to itself."""
    return [rows_of_idle(group) for group in record(name)["groups"].values()]


def rows_of_idle(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of one interleaved run."""
    assert group["idle"], "else it does not count"
    return group["functions"]


def rows_below(text: str, file: str = "docs/performance.md") -> list[list[str]]:
    """Cells of the first table behind a text that stands in the document once; its head first."""
    _, behind = (ROOT / file).read_text().split(text)
    lines = behind[behind.index("\n| ") :].strip().split("\n\n")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
    return [head, *rows]


def table(title: str, file: str = "docs/performance.md") -> list[dict[str, str]]:
    """Rows of the first table below a title, cells by column."""
    head, *rows = rows_below(f"## {title}\n", file)
    return [dict(zip(head, row, strict=True)) for row in rows]


def interval(value: float, low: float, high: float, rounds: int = MIN_ROUNDS) -> str:
    """A ratio as the documents write it."""
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if rounds >= MIN_ROUNDS else f"{value:.2f} (-)"


def of_floor(function: dict[str, Any], kind: str = "times_floor") -> str:
    """Time in multiples of a floor; a dash where it was not measured."""
    if kind not in function:
        return "-"
    return interval(function[kind], *function[f"{kind}_interval"])
