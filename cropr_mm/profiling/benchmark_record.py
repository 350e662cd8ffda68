"""What a benchmark of a model against its dense twin found, as one record and as text."""

from dataclasses import dataclass
from typing import Any

from cropr_mm.profiling.encoder_cost import EncoderCost
from cropr_mm.profiling.floor import Floor
from cropr_mm.profiling.latency import MAX_LOAD, Latencies, Ratio
from cropr_mm.profiling.model_parts import PARTS
from cropr_mm.text_table import format_table


@dataclass(frozen=True)
class Benchmark:
    """What :func:`cropr_mm.profiling.dense_vs_pruned.benchmark_model` measured.

    Encoders are called 'dense' and, where the model prunes, 'pruned'.

    Attributes:
        about: Machine, versions, precision, batch and image size.
        tokens: Tokens that enter each block, by encoder.
        latencies: Times of 'encoder' and 'model', each dense against pruned.
        parts: Times of the parts of a test step, by encoder.
        floors: Measured floor by encoder.
        costs: Counted cost of one image by encoder.
        model_macs: Counted MACs of the whole model on one image by encoder; empty where its encoder
            is not its ``backbone``.
        memory: Peak memory of 'encoder' and 'model' by encoder, in bytes; None without CUDA.
    """

    about: dict[str, Any]
    tokens: dict[str, list[int]]
    latencies: dict[str, Latencies]
    parts: dict[str, Latencies]
    floors: dict[str, Floor]
    costs: dict[str, EncoderCost]
    model_macs: dict[str, dict[str, Any]]
    memory: dict[str, dict[str, int | None]]

    @property
    def is_idle(self) -> bool:
        """Whether the machine was idle enough for the times to count."""
        return self.load <= MAX_LOAD

    @property
    def load(self) -> float:
        """Cores that other processes kept busy in the worst of the runs."""
        runs: tuple[Latencies | Floor, ...] = (
            *self.latencies.values(),
            *self.parts.values(),
            *self.floors.values(),
        )
        return max(run.load for run in runs)

    def times_floor(self, encoder: str) -> Ratio:
        """Median time of an encoder in multiples of its floor."""
        return self.floors[encoder].multiple(self.latencies["encoder"].times[encoder])

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        names = list(self.floors)
        multiples = {name: self.times_floor(name) for name in names}
        return {
            **self.about,
            "tokens_per_block": self.tokens[names[-1]],
            "tokens_per_block_dense": self.tokens["dense"],
            **{part: times.as_dict(base="dense") for part, times in self.latencies.items()},
            "parts": {
                "contain": dict(PARTS),
                **{name: _spread(times) for name, times in self.parts.items()},
            },
            "macs": {
                "encoder": {name: cost.macs.as_dict() for name, cost in self.costs.items()},
                "model": self.model_macs,
            },
            "floor": {
                name: {
                    **floor.as_dict(),
                    "encoder_times_floor": multiples[name].value,
                    "encoder_times_floor_interval": list(multiples[name][1:]),
                }
                for name, floor in self.floors.items()
            },
            "peak_memory_bytes": self.memory,
            "load": self.load,
            "idle": self.is_idle,
        }


def format_benchmark(result: Benchmark) -> str:
    """Tables for people; blocks count from 1."""
    about = result.about
    height, width = about["img_size"]
    memory = result.memory["model"]
    blocks = [str(i) for i in range(1, 1 + len(result.tokens["dense"]))]
    tokens = [[name, *map(str, counts)] for name, counts in result.tokens.items()]
    warning = []
    if not result.is_idle:
        warning = [
            f"NOT IDLE: other processes kept {result.load:.2f} cores busy (more than {MAX_LOAD}); "
            "these times do not count"
        ]
    lines = [
        "Speed against the dense twin of the same weights",
        f"{about['machine']}, CPU threads {result.latencies['model'].threads}, {about['dtype']}, "
        f"batch size {about['batch_size']}, images of {height}x{width} pixels, "
        f"{about['rounds']} rounds",
        *warning,
        format_table([["tokens of block", *blocks], *tokens]),
    ]
    for part, latencies in result.latencies.items():
        lines += [f"{part}:", *_indented(latencies.table(base="dense").splitlines())]
    lines += [
        "encoder: MACs of one image (linear: weights only); floor: time that its matmuls",
        "alone take at this batch, each shape measured apart, in turn with the encoders:",
    ]
    lines += _indented(format_table(_floor_rows(result)).splitlines())
    lines += ["test step by part, synchronized, both models in turn, median ms:"]
    lines += _indented(format_table(_part_rows(result)).splitlines())
    if any(memory.values()):
        peaks = ", ".join(f"{name} {peak / 2**30:.2f} GiB" for name, peak in memory.items() if peak)
        lines.append(f"peak memory of a test step: {peaks}")
    return "\n".join(lines)


def _spread(parts: Latencies) -> dict[str, dict[str, float]]:
    quantiles = {"median_ms": 0.5, "p10_ms": 0.1, "p90_ms": 0.9}
    return {p: {n: parts.quantile(p, q) for n, q in quantiles.items()} for p in parts.times}


def _floor_rows(result: Benchmark) -> list[list[str]]:
    rows = [["", "GMAC linear", "GMAC total", "floor ms", "linear", "attention", "x of floor"]]
    for name, floor in result.floors.items():
        macs = result.costs[name].macs
        counts = (f"{count / 1e9:.2f}" for count in (macs.linear, macs.total))
        times = (f"{ms:.1f}" for ms in (floor.ms, floor.linear_ms, floor.attention_ms))
        rounds = len(result.latencies["encoder"].times[name])
        rows.append([name, *counts, *times, result.times_floor(name).text(rounds, "")])
    return rows


def _part_rows(result: Benchmark) -> list[list[str]]:
    titles = {part: part.replace("_", " ").replace("post ", "post-") for part in (*PARTS, "sum")}
    rows = [["", *titles.values()]]
    for name, times in result.parts.items():
        rows.append([name, *(f"{times.median(part):.1f}" for part in titles)])
    return rows


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
