"""Stored measurements, and how the documents write their numbers."""

import json
from collections.abc import Sequence
from typing import Any

from cropr_mm.profiling.latency import MIN_ROUNDS, Latencies
from tables.blocks import ROOT

RESULTS = ROOT / "benchmarks/results"
GIB = 2**30
Timed = dict[str, Any]
"""A timed function of a record: its times, what they are compared with, and what it costs."""


def record(name: str) -> dict[str, Any]:
    """A stored measurement, by its name without .json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def of_idle(group: dict[str, Any]) -> dict[str, Timed]:
    """Timed functions of one interleaved run.

    Raises:
        ValueError: If the machine was busy with other work, so that the times do not count.
    """
    if not group["idle"]:
        raise ValueError(f"expected a run on an idle machine, got a load of {group.get('load')}")
    return group["functions"]


def benchmark(name: str, batch: str = "1") -> dict[str, Timed]:
    """Rows of a stored run of ``tools/benchmark.py``."""
    return of_idle(record(name)["batches"][batch])


def study(name: str) -> dict[str, dict[str, Timed]]:
    """Rows of each group of a stored study, by the group's name."""
    return {group: of_idle(run) for group, run in record(name)["groups"].items()}


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text and whose others are numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def interval(value: float, low: float, high: float, rounds: int = MIN_ROUNDS) -> str:
    """A ratio and its 95 % interval; without one where there were too few rounds."""
    return f"{value:.2f} ({low:.2f} to {high:.2f})" if rounds >= MIN_ROUNDS else f"{value:.2f} (-)"


def speedup(function: Timed, base: str | None = None) -> str:
    """Speed over the first function of its run, or over another one that the record names."""
    return interval(**(function["speedup"] if base is None else function["speedup_over"][base]))


def ratio(functions: dict[str, Timed], name: str, base: str) -> tuple[float, float, float]:
    """Speed of one function of a run over any other one's, with its interval."""
    times = {row: tuple(function["times_ms"]) for row, function in functions.items()}
    return Latencies(times, items=1, load=0, threads=2, device="cpu").speedup(name, base)


def of_floor(function: Timed, kind: str = "times_floor") -> str:
    """Time in multiples of a floor; a dash where it was not measured."""
    if kind not in function:
        return "-"
    return interval(function[kind], *function[f"{kind}_interval"])


def gmac(function: Timed) -> float:
    """Billions of multiply-adds of one call, attention included."""
    return sum(function["floor"][f"macs_{kind}"] for kind in ("linear", "attention")) / 1e9


def row_of(functions: dict[str, Timed], encoder: str, compiled: bool = True) -> Timed:
    """The only row whose name begins with an encoder's, in one form."""
    (found,) = (
        row
        for name, row in functions.items()
        if name.startswith(encoder) and name.endswith(", compiled") == compiled
    )
    return found
