"""Several encoders or models timed in turn in one process, with the measured floor of each."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from torch import Tensor, nn

from cropr_mm.profiling.compiled import Compiled
from cropr_mm.profiling.environment import peak_memory, synchronize
from cropr_mm.profiling.floor import Floor, measure_with_floors
from cropr_mm.profiling.latency import Latencies, Ratio
from cropr_mm.profiling.matmuls import Matmuls, record_matmuls
from cropr_mm.profiling.out_of_memory import attempt
from cropr_mm.profiling.packed_weights import packed_matmuls
from cropr_mm.profiling.run_mode import Mode


@dataclass(frozen=True)
class Entry:
    """One thing to time.

    Attributes:
        call: What is timed, called with a batch.
        encoder: Encoder of ours whose floor the times are compared with.
        images: What encoders see of a batch, shape (B, 3, H, W).
        mode: Precision, kernels and place that it runs in; modules are already there.
        frozen: Whether the encoder is compiled with its weights as constants.
    """

    call: Callable[[Any], object]
    encoder: nn.Module
    images: Callable[[Any], Tensor]
    mode: Mode
    frozen: bool = False

    def run(self, batch: Any) -> object:
        """What is timed: one call in its mode; autocast casts weights anew, as in a test loop."""
        with self.mode.running():
            return self.call(batch)

    def matmuls(self, batch: Any) -> Matmuls:
        """Matmuls of its encoder."""
        with self.mode.running():
            images = self.images(batch)
            return record_matmuls(partial(self.encoder, images), self.mode.sdpa)


@dataclass(frozen=True)
class SideBySide:
    """Times of all entries on one batch; the first one that ran is the base of speed-ups.

    Attributes:
        latencies: Times by name.
        floors: Floor of the encoder by name.
        packed_floors: The same with packed weights, of frozen entries where the device packs them.
        memory: Peak memory in bytes by name, weights of all entries included; None without CUDA.
        errors: By name why an entry did not run, see :func:`.out_of_memory.attempt`; such entries
            are nowhere else.
    """

    latencies: Latencies
    floors: Mapping[str, Floor]
    packed_floors: Mapping[str, Floor]
    memory: Mapping[str, int | None]
    errors: Mapping[str, str]

    def times_floor(self, name: str) -> Ratio:
        """Median time in multiples of the floor of its encoder."""
        return self.floors[name].multiple(self.latencies.times[name])

    def times_packed_floor(self, name: str) -> Ratio | None:
        """The same of the floor with packed weights; None where there is none."""
        floor = self.packed_floors.get(name)
        return floor.multiple(self.latencies.times[name]) if floor else None

    def against(self, base: str) -> dict[str, Ratio]:
        """How many times faster than another entry each one is, by name."""
        return {name: self.latencies.speedup(name, base) for name in self.floors}

    def as_dict(self, bases: Sequence[str] = ()) -> dict[str, Any]:
        """Plain types for JSON, with speed-ups over further entries than the first."""
        record = self.latencies.as_dict(base=self._base)
        over = {base: self.against(base) for base in bases}
        for name, function in record["functions"].items():
            function["speedup_over"] = {base: over[base][name]._asdict() for base in bases}
            function["floor"] = self.floors[name].as_dict()
            function["times_floor"], *interval = self.times_floor(name)
            function["times_floor_interval"] = interval
            packed = self.times_packed_floor(name)
            if packed is not None:
                function["packed_floor"] = self.packed_floors[name].as_dict()
                function["times_packed_floor"], *interval = packed
                function["times_packed_floor_interval"] = interval
            function["peak_memory_bytes"] = self.memory[name]
        return {**record, "errors": dict(self.errors)}

    @property
    def warning(self) -> str:
        """What to say behind a title where the times do not count; else empty."""
        load = self.latencies.load
        return "" if self.latencies.is_idle else f"; NOT IDLE, load {load:.2f}: does not count"

    def table(self, columns: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """Aligned text, and below it what did not run.

        Args:
            columns: Further columns by title: text by name.
        """
        multiples: dict[str, dict[str, Ratio | None]]
        multiples = {"x of encoder floor": {n: self.times_floor(n) for n in self.floors}}
        if self.packed_floors:
            multiples["x of packed floor"] = {n: self.times_packed_floor(n) for n in self.floors}
        texts = {
            title: {name: self._text(name, multiple) for name, multiple in by_name.items()}
            for title, by_name in multiples.items()
        }
        columns = {**texts, **(columns or {})}
        if any(self.memory.values()):
            columns["peak GiB"] = {n: f"{(m or 0) / 2**30:.2f}" for n, m in self.memory.items()}
        lines = [f"{name} did not run: {reason}" for name, reason in self.errors.items()]
        return "\n".join([self.latencies.table(self._base, columns), *lines])

    def _text(self, name: str, multiple: Ratio | None) -> str:
        return multiple.text(len(self.latencies.times[name]), "") if multiple else "-"

    @property
    def _base(self) -> str:
        return next(iter(self.floors))


def encoder_entry(
    module: nn.Module, encoder: nn.Module, mode: Mode, compile: bool = False
) -> Entry:
    """Time a module on images.

    Args:
        module: Takes images (B, 3, H, W).
        encoder: See :class:`Entry`.
        mode: See :class:`Entry`.
        compile: Whether to run it under ``torch.compile``, whole and for static shapes.
    """
    call = Compiled(module) if compile else module
    return Entry(call, encoder, lambda images: images, mode, compile and _freezes())


def model_entry(model: nn.Module, encoder: nn.Module, mode: Mode, compile: bool = False) -> Entry:
    """Time the test step of a model with another encoder in place of its own.

    Args:
        model: Model of a host library; not changed, all other parts are shared.
        encoder: The encoder.
        mode: See :class:`Entry`.
        compile: Whether to compile the encoder; heads stay eager.
    """
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.backbone = Compiled(encoder) if compile else encoder

    def images(batch: Any) -> Tensor:
        return model.data_preprocessor(batch)["inputs"]

    return Entry(twin.test_step, encoder, images, mode, compile and _freezes())


def time_side_by_side(
    entries: Mapping[str, Entry],
    batch: Any,
    *,
    rounds: int = 10,
    warmup: int = 3,
    on_round: Callable[[int], object] | None = None,
) -> SideBySide:
    """Time all entries on one batch, in turn with the matmuls of their encoders.

    Each entry is called once before; what the machine is too small for, or has no kernel for, is
    left out.

    Args:
        entries: By name, all on one device; the first one is the base. Entries of one encoder and
            mode share a floor.
        batch: What the entries are called with.
        rounds: Timed calls of each.
        warmup: Calls of each before that.
        on_round: Called after each round with the number of rounds that are done.

    Raises:
        ValueError: If there is nothing to time, a count is too small, or devices differ.
        RuntimeError: If no entry runs, with the reason of the first.
    """
    devices = {entry.mode.device for entry in entries.values()}
    if len(devices) != 1:
        raise ValueError(f"expected entries on one device, got {sorted(devices)}")
    tried = {name: attempt(partial(_try, e, batch))[1] for name, e in entries.items()}
    errors = {name: reason for name, reason in tried.items() if reason}
    entries = {name: entry for name, entry in entries.items() if name not in errors}
    if not entries:
        raise RuntimeError(next(iter(errors.values())))
    (device,) = devices
    keys = {name: f"{id(entry.encoder)}, {entry.mode}" for name, entry in entries.items()}
    one_of = {key: entries[name] for name, key in keys.items()}
    matmuls = {key: entry.matmuls(batch) for key, entry in one_of.items()}
    packed_keys = {n: f"{key}, packed" for n, key in keys.items() if entries[n].frozen}
    if torch.device(device).type == "cpu":
        packed = {packed_keys[name]: packed_matmuls(matmuls[keys[name]]) for name in packed_keys}
        matmuls |= {key: found for key, found in packed.items() if found}
    calls = {name: partial(entry.run, batch) for name, entry in entries.items()}
    latencies, floors = measure_with_floors(
        calls,
        matmuls,
        items=len(next(iter(entries.values())).images(batch)),
        rounds=rounds,
        warmup=warmup,
        device=device,
        on_round=on_round,
    )
    return SideBySide(
        latencies,
        floors={name: floors[key] for name, key in keys.items()},
        packed_floors={name: floors[key] for name, key in packed_keys.items() if key in floors},
        memory={name: peak_memory(call, device) for name, call in calls.items()},
        errors=errors,
    )


def _try(entry: Entry, batch: Any) -> None:
    entry.run(batch)
    synchronize(torch.device(entry.mode.device))


def _freezes() -> bool:
    """Whether compilation freezes weights, see :func:`.run_mode.freeze_weights`."""
    return torch._inductor.config.freezing
