"""Stored measurements, and how the documents write their numbers."""

import json
from collections.abc import Sequence
from typing import Any

from cropr_mm.profiling.latency import MIN_ROUNDS
from tables.blocks import ROOT

RESULTS = ROOT / "benchmarks/results"


def record(name: str) -> dict[str, Any]:
    """A stored measurement, by its name without .json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def of_idle(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Timed functions of one interleaved run.

    Raises:
        ValueError: If the machine was busy with other work, so that the times do not count.
    """
    if not group["idle"]:
        raise ValueError(f"expected a run on an idle machine, got a load of {group.get('load')}")
    return group["functions"]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text and whose others are numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def interval(value: float, low: float, high: float, rounds: int = MIN_ROUNDS) -> str:
    """A ratio and its 95 % interval; without one where there were too few rounds."""
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if rounds >= MIN_ROUNDS else f"{value:.2f} (-)"
