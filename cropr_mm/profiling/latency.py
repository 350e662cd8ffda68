"""Interleaved timing of several functions in one process.

One round calls every function once, in an order that is drawn anew (A B C, C A B, ...): a change of
clock, temperature or load meets all of them alike, and none always finds the caches as the same
other one has left them. What is compared is the ratio of medians, with a bootstrap interval over
rounds; absolute times of two separate runs do not compare.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cropr_mm.profiling.environment import synchronize
from cropr_mm.text_table import format_table

MAX_LOAD = 0.3
"""Busy cores by other processes above which a timing does not count."""

MIN_ROUNDS = 5
"""Rounds below which a bootstrap interval says nothing and is not shown."""


class Ratio(NamedTuple):
    """Ratio of two medians of one run, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"

    def text(self, rounds: int, unit: str = "x", digits: int = 2) -> str:
        """For a table; without the interval where it comes from too few rounds."""
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        interval = f"{low}-{high}" if rounds >= MIN_ROUNDS else "-"
        return f"{self.value:.{digits}f}{unit} ({interval})"


def resampled_medians(times: Sequence[float], samples: int = 2000) -> NDArray[np.float64]:
    """Medians of bootstrap samples of rounds.

    Args:
        times: Times of one function, in order of rounds.
        samples: Bootstrap samples. All functions of one run get the same rounds in each.

    Returns:
        Medians in the unit of the times, shape (samples,).
    """
    rounds = np.random.default_rng(0).integers(len(times), size=(samples, len(times)))
    return np.median(np.asarray(times)[rounds], axis=-1)


def ratio(
    value: float, resampled_above: NDArray[np.float64], resampled_below: NDArray[np.float64]
) -> Ratio:
    """A ratio and its interval from bootstrap samples of both parts, shape (samples,) each."""
    low, high = np.quantile(resampled_above / resampled_below, [0.025, 0.975])
    return Ratio(value, float(low), float(high))


@dataclass(frozen=True)
class Latencies:
    """Times of one interleaved run.

    Attributes:
        times: Milliseconds of each call by function name, in order of rounds; equal lengths.
        items: Images that one call processes.
        load: Mean number of cores that other processes kept busy meanwhile; where the system does
            not tell, its load average of the last minute before the run.
        threads: Threads that torch used on the CPU.
        device: Device that was synchronized before each clock reading.
    """

    times: Mapping[str, tuple[float, ...]]
    items: int
    load: float
    threads: int
    device: str

    @property
    def is_idle(self) -> bool:
        """Whether the machine was idle enough for the times to count."""
        return self.load <= MAX_LOAD

    def quantile(self, name: str, q: float) -> float:
        """Quantile ``q`` in [0, 1] of the times of one function, in milliseconds."""
        return float(np.quantile(self.times[name], q))

    def median(self, name: str) -> float:
        """Median time of one function, in milliseconds."""
        return self.quantile(name, 0.5)

    def throughput(self, name: str) -> float:
        """Images per second at the median time."""
        return 1e3 * self.items / self.median(name)

    def speedup(self, name: str, base: str, samples: int = 2000) -> Ratio:
        """How many times faster ``name`` is than ``base``.

        Args:
            name: Function that is compared.
            base: Function that it is compared with.
            samples: Bootstrap samples of rounds; both functions use the same rounds of a sample.
        """
        above, below = (resampled_medians(self.times[n], samples) for n in (base, name))
        return ratio(self.median(base) / self.median(name), above, below)

    def table(
        self, base: str | None = None, columns: Mapping[str, Mapping[str, str]] | None = None
    ) -> str:
        """Aligned text table.

        Args:
            base: Function that speed-ups are given against.
            columns: Further columns by title: text by function.
        """
        columns = columns or {}
        head = ["", "im/s", "median ms", "p10-p90 ms", *(["speed-up (95 %)"] if base else [])]
        rows = [[*head, *columns]]
        for name in self.times:
            spread = f"{self.quantile(name, 0.1):.1f}-{self.quantile(name, 0.9):.1f}"
            row = [name, f"{self.throughput(name):.2f}", f"{self.median(name):.1f}", spread]
            row += [self.speedup(name, base).text(len(self.times[name]))] if base else []
            rows.append([*row, *(texts[name] for texts in columns.values())])
        return format_table(rows)

    def as_dict(self, base: str | None = None) -> dict[str, Any]:
        """Everything in plain types for JSON; with ``base``, speed-ups against that function."""
        functions = {}
        for name, times in self.times.items():
            functions[name] = {
                "images_per_s": self.throughput(name),
                "median_ms": self.median(name),
                "p10_ms": self.quantile(name, 0.1),
                "p90_ms": self.quantile(name, 0.9),
                "times_ms": list(times),
            }
            if base is not None:
                functions[name]["speedup"] = self.speedup(name, base)._asdict()
        return {
            "functions": functions,
            "base": base,
            "images_per_call": self.items,
            "load": self.load,
            "idle": self.is_idle,
            "threads": self.threads,
            "device": self.device,
        }


def measure(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 10,
    warmup: int = 2,
    items: int = 1,
    before: Mapping[str, Callable[[], object]] | None = None,
    device: str | torch.device = "cpu",
    on_round: Callable[[int], object] | None = None,
) -> Latencies:
    """Time functions in turn, in an order drawn anew for each round from a fixed seed.

    Args:
        functions: Calls without arguments, by name.
        rounds: Timed calls of each function.
        warmup: Calls of each function before that, in the order given.
        items: Images that one call processes.
        before: What runs untimed right before each timed call of a function, by its name.
        device: Device that the functions compute on; it is synchronized around each call.
        on_round: Called after each round with the number of rounds that are done.

    Raises:
        ValueError: If there is nothing to time, or a count is too small.
    """
    if not functions:
        raise ValueError("measure needs at least one function, got none")
    if rounds < 1 or warmup < 0 or items < 1:
        raise ValueError(
            f"expected rounds >= 1, warmup >= 0 and items >= 1, got {rounds}, {warmup} and {items}"
        )
    device = torch.device(device)
    for _ in range(warmup):
        for function in functions.values():
            _milliseconds(function, device)
    load = _LoadMeter()
    times: dict[str, list[float]] = {name: [] for name in functions}
    names, turns = list(functions), np.random.default_rng(0)
    for done in range(1, rounds + 1):
        for i in turns.permutation(len(names)):
            if before and names[i] in before:
                before[names[i]]()
            times[names[i]].append(_milliseconds(functions[names[i]], device))
        if on_round:
            on_round(done)
    return Latencies(
        times={name: tuple(values) for name, values in times.items()},
        items=items,
        load=load.read(),
        threads=torch.get_num_threads(),
        device=str(device),
    )


def _milliseconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's queue empty before and after."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return 1e3 * (time.perf_counter() - start)


class _LoadMeter:
    """Cores kept busy by other processes since construction."""

    def __init__(self) -> None:
        self.load_average = os.getloadavg()[0]
        self.start = _busy_seconds(), time.process_time(), time.perf_counter()

    def read(self) -> float:
        busy, own, wall = _busy_seconds(), time.process_time(), time.perf_counter()
        if busy is None or self.start[0] is None:
            return self.load_average
        others = (busy - self.start[0]) - (own - self.start[1])
        return max(0.0, others) / (wall - self.start[2])


def _busy_seconds() -> float | None:
    """CPU seconds that all processes together have used; None where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK") if busy else None
