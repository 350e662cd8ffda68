"""Speed of a model against its own dense twin: measured in one run, as one record and as text."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.runner import autocast
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import auxiliary_reducers, only_backbone
from cropr_mm.profiling.environment import git_commit, machine_name, peak_memory, versions
from cropr_mm.profiling.floor import Floor, measure_with_floors
from cropr_mm.profiling.latency import MAX_LOAD, Latencies, Ratio, measure
from cropr_mm.profiling.macs import EncoderCost, encoder_cost, meta_twin, model_cost
from cropr_mm.profiling.matmuls import record_matmuls
from cropr_mm.profiling.model_parts import PARTS, measure_parts
from cropr_mm.text_table import format_table


@dataclass(frozen=True)
class Benchmark:
    """What :func:`benchmark_model` measured; encoders are 'dense' and, if it prunes, 'pruned'.

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


def benchmark_model(
    model: nn.Module, batch: Any, *, rounds: int = 20, warmup: int = 3, fp16: bool = False
) -> Benchmark:
    """Time encoder and model of a host library on one batch, as its test loop runs them.

    The dense twin shares all parameters and prunes nothing; both take turns. The encoder gets
    preprocessed images; the model starts from the collated batch and ends with its predictions.
    Auxiliary parts never run, so they are never timed: this is checked, as is that the deployed
    form counts the same.

    Args:
        model: Model with one backbone that reduces tokens on one grid, such as
            :class:`cropr_mm.CroprViT`; left in evaluation mode.
        batch: What the data loader returns.
        rounds: Timed calls of each.
        warmup: Calls of each before that.
        fp16: Whether to run under mmengine's autocast.

    Raises:
        ValueError: If the model has not exactly one such backbone, or its preprocessor does not
            return one tensor of images.
    """
    model.eval()
    with torch.no_grad():
        images = model.data_preprocessor(batch, False)["inputs"]
        if not isinstance(images, Tensor):
            raise ValueError(
                "expected the data preprocessor to return one tensor of images, got "
                f"{type(images).__name__}"
            )
        path, backbone = only_backbone(model)
        # A model that prunes nothing is its own twin: there is nothing to compare.
        encoders = {"dense": backbone.unpruned()}
        if backbone.reducers:
            encoders["pruned"] = backbone
        with _no_auxiliary(backbone), _swapping(model, path, backbone) as swap:
            return _measure(model, path, encoders, batch, images, rounds, warmup, fp16, swap)


def _measure(
    model: nn.Module,
    path: str,
    encoders: Mapping[str, ReducingBackbone],
    batch: Any,
    images: Tensor,
    rounds: int,
    warmup: int,
    fp16: bool,
    swap: Callable[[nn.Module], None],
) -> Benchmark:
    timing = dict(rounds=rounds, warmup=warmup, device=images.device)
    size = (images.shape[-2], images.shape[-1])

    def run_encoder(encoder: nn.Module) -> None:
        with _precision(fp16):
            encoder(images)

    def run_step() -> None:
        with _precision(fp16):
            model.test_step(batch)

    def run_model(encoder: nn.Module) -> None:
        swap(encoder)
        run_step()

    calls: dict[str, Callable[[nn.Module], None]] = {"encoder": run_encoder, "model": run_model}
    bound = {
        part: {name: partial(call, encoder) for name, encoder in encoders.items()}
        for part, call in calls.items()
    }
    products = {name: record_matmuls(run) for name, run in bound["encoder"].items()}
    times, floors = measure_with_floors(bound["encoder"], products, items=len(images), **timing)
    latencies = {"encoder": times, "model": measure(bound["model"], items=len(images), **timing)}
    variants = {name: partial(swap, encoder) for name, encoder in encoders.items()}
    parts = measure_parts(model, path, run_step, variants, items=len(images), **timing)
    return Benchmark(
        about=_about(next(iter(encoders.values())), images, fp16, rounds, warmup),
        tokens={n: e.tokens_per_block(e.patch_grid(size)) for n, e in encoders.items()},
        latencies=latencies,
        parts=parts,
        floors=floors,
        costs={name: _encoder_cost(encoder, size) for name, encoder in encoders.items()},
        model_macs={n: _model_macs(model, path, e, size, swap) for n, e in encoders.items()},
        memory={
            part: {name: peak_memory(run, images.device) for name, run in runs.items()}
            for part, runs in bound.items()
        },
    )


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
        "encoder: MACs of one image (linear: weights only); floor: time that its matrix products",
        "alone take at this batch, each shape measured apart, in turn with the encoders:",
    ]
    lines += _indented(format_table(_floor_rows(result)).splitlines())
    lines += ["test step by part, synchronised, both models in turn, median ms:"]
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


@contextmanager
def _swapping(
    model: nn.Module, path: str, backbone: ReducingBackbone
) -> Iterator[Callable[[nn.Module], None]]:
    """Function that puts another encoder into the model; the right one is back at the end."""
    owner = model.get_submodule(path.rpartition(".")[0])
    name = path.rpartition(".")[2]
    try:
        yield partial(setattr, owner, name)
    finally:
        setattr(owner, name, backbone)


@contextmanager
def _no_auxiliary(backbone: ReducingBackbone) -> Iterator[None]:
    """Raise where an auxiliary part runs: what is timed must be what is deployed."""

    def refuse(*_: object) -> None:
        raise AssertionError("an auxiliary part ran in evaluation mode")

    reducers = auxiliary_reducers(backbone).values()
    handles = [reducer.auxiliary.register_forward_pre_hook(refuse) for reducer in reducers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _encoder_cost(encoder: ReducingBackbone, size: tuple[int, int]) -> EncoderCost:
    twin = meta_twin(encoder)
    cost = encoder_cost(twin, size)
    twin.switch_to_deploy()
    assert encoder_cost(twin, size).macs == cost.macs, "the deployed form costs something else"
    return cost


def _model_macs(
    model: nn.Module,
    path: str,
    encoder: ReducingBackbone,
    size: tuple[int, int],
    swap: Callable[[nn.Module], None],
) -> dict[str, Any]:
    """MACs of the whole model, with the parts that could not be counted."""
    if path != "backbone":
        return {}
    swap(encoder)
    cost = model_cost(meta_twin(model), size)
    return {**cost.macs.as_dict(), "not_counted": cost.not_counted}


def _precision(fp16: bool) -> AbstractContextManager:
    return autocast(enabled=fp16)


def _about(
    backbone: ReducingBackbone, images: Tensor, fp16: bool, rounds: int, warmup: int
) -> dict[str, Any]:
    """What the times belong to."""
    dtype = str(next(backbone.parameters()).dtype).removeprefix("torch.")
    return {
        "machine": machine_name(images.device),
        "commit": git_commit(),
        "versions": versions(),
        "dtype": f"{dtype}, autocast" if fp16 else dtype,
        "batch_size": len(images),
        "img_size": list(images.shape[-2:]),
        "rounds": rounds,
        "warmup": warmup,
    }
