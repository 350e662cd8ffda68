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

from cropr_mm.analysis.floor import Floor, measure_with_floors
from cropr_mm.analysis.latency import Latencies, Ratio
from cropr_mm.analysis.machine import peak_memory
from cropr_mm.analysis.mode import Mode
from cropr_mm.analysis.packing import packed_products
from cropr_mm.analysis.products import record_products

_COMPILED_FORMS = 64  # of one function; torch keeps 8 by default, one per model and shape


@dataclass(frozen=True)
class Entry:
    """One thing to time.

    Attributes:
        call: What is timed, called with a batch.
        encoder: Encoder of ours whose floor the times are compared with.
        images: What encoders see of a batch, shape (B, 3, H, W).
        frozen: Whether the encoder is compiled with its weights as constants.
    """

    call: Callable[[Any], object]
    encoder: nn.Module
    images: Callable[[Any], Tensor]
    frozen: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Times of all entries on one batch; the first entry is the base of speed-ups.

    Attributes:
        latencies: Times by name.
        floors: Floor of the encoder by name.
        packed_floors: The same with packed weights, of frozen entries where the device packs them.
        memory: Peak memory in bytes by name, weights of all entries included; None without CUDA.
    """

    latencies: Latencies
    floors: Mapping[str, Floor]
    packed_floors: Mapping[str, Floor]
    memory: Mapping[str, int | None]

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
        return record

    @property
    def warning(self) -> str:
        """What to say behind a title where the times do not count; else empty."""
        load = self.latencies.load
        return "" if self.latencies.is_idle else f"; NOT IDLE, load {load:.2f}: does not count"

    def table(self, columns: Mapping[str, Mapping[str, str]] | None = None) -> str:
        """Aligned text.

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
        return self.latencies.table(self._base, columns)

    def _text(self, name: str, multiple: Ratio | None) -> str:
        return multiple.text(len(self.latencies.times[name]), "") if multiple else "-"

    @property
    def _base(self) -> str:
        return next(iter(self.floors))


def encoder_entry(module: nn.Module, encoder: nn.Module, compile: bool = False) -> Entry:
    """Time a module on images.

    Args:
        module: Takes images (B, 3, H, W).
        encoder: See :class:`Entry`.
        compile: Whether to run it under ``torch.compile``, whole and for static shapes.
    """
    call = _compiled(module) if compile else module
    return Entry(call, encoder, lambda images: images, compile and _freezes())


def model_entry(model: nn.Module, encoder: nn.Module, compile: bool = False) -> Entry:
    """Time the test step of a model with another encoder in place of its own.

    Args:
        model: Model of a host library; not changed, all other parts are shared.
        encoder: The encoder.
        compile: Whether to compile the encoder; heads stay eager.
    """
    twin = copy.copy(model)
    twin._modules = dict(model._modules)
    twin.backbone = _compiled(encoder) if compile else encoder

    def images(batch: Any) -> Tensor:
        return model.data_preprocessor(batch)["inputs"]

    return Entry(twin.test_step, encoder, images, compile and _freezes())


def time_side_by_side(
    entries: Mapping[str, Entry],
    batch: Any,
    mode: Mode,
    *,
    rounds: int = 10,
    warmup: int = 3,
) -> SideBySide:
    """Time all entries on one batch.

    Args:
        entries: By name, already in the mode's precision and place; the first one is the base.
        batch: What the entries are called with.
        mode: How to run.
        rounds: Timed calls of each.
        warmup: Calls of each before that; the first compiles.

    Raises:
        ValueError: If there is nothing to time, or a count is too small.
    """
    calls = {name: partial(_run, mode, entry.call, batch) for name, entry in entries.items()}
    encoders = {id(entry.encoder): entry.encoder for entry in entries.values()}
    images = next(iter(entries.values())).images(batch)
    products = {
        str(key): record_products(partial(_run, mode, encoder, images))
        for key, encoder in encoders.items()
    }
    packed = {}
    if torch.device(mode.device).type == "cpu":
        frozen = {str(id(entry.encoder)) for entry in entries.values() if entry.frozen}
        packed = {f"{key}, packed": packed_products(products[key]) for key in frozen}
    products |= {key: found for key, found in packed.items() if found}
    latencies, floors = measure_with_floors(
        calls, products, items=len(images), rounds=rounds, warmup=warmup, device=mode.device
    )
    keys = {name: str(id(entry.encoder)) for name, entry in entries.items()}
    frozen_keys = {n: f"{key}, packed" for n, key in keys.items() if entries[n].frozen}
    return SideBySide(
        latencies,
        {name: floors[key] for name, key in keys.items()},
        {name: floors[key] for name, key in frozen_keys.items() if key in floors},
        {name: peak_memory(call, mode.device) for name, call in calls.items()},
    )


def _run(mode: Mode, call: Callable[[Any], object], batch: Any) -> object:
    """One call; autocast casts weights anew in each, as in a test loop."""
    with mode.running():
        return call(batch)


def _freezes() -> bool:
    """Whether what is compiled now is frozen, see :func:`cropr_mm.analysis.mode.freeze_weights`."""
    return torch._inductor.config.freezing


def _compiled(module: nn.Module) -> Callable:
    """Models of one class share the compiled forms of its methods, so there must be room."""
    settings = torch._dynamo.config
    for limit in ("recompile_limit", "cache_size_limit"):  # the second before torch 2.6
        if hasattr(settings, limit):
            setattr(settings, limit, max(_COMPILED_FORMS, getattr(settings, limit)))
    # On a GPU the mode replays CUDA graphs, so that small batches do not wait for launches.
    return torch.compile(module, fullgraph=True, dynamic=False, mode="reduce-overhead")
