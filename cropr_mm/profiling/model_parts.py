"""Where the time of a whole model's test step goes: encoder, neck and heads, and the rest.

The boundaries are calls of modules, which every host library makes for its networks and for nothing
else, so no model has to be known or changed. The device is synchronized at each boundary, which
costs a little: sums are above the time of an undisturbed step. A head whose ``forward`` is called
directly, as mmseg does, has its layers for modules; what it does between them counts as the rest.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn

from cropr_mm.profiling.environment import synchronize
from cropr_mm.profiling.latency import Latencies, measure

PARTS: Mapping[str, str] = {
    "preprocessing": "the data preprocessor: transfer, normalization, padding, collation",
    "encoder": "the backbone that reduces tokens",
    "neck_and_heads": "all other modules: neck, dense heads, RoIAlign, heads on regions, decoders",
    "post_processing": "what is outside of modules: proposals and their suppression, decoding of "
    "boxes, NMS, resizing and pasting of masks, packing of results",
}


class PartTimer:
    """Adds up the time of the outermost module calls inside a model, by part.

    Use it as a context manager; a call of the model itself is no part.

    Args:
        model: Model whose ``test_step`` runs inside the block.
        encoder: Path of its encoder.
        device: Device to synchronize at each boundary.
    """

    def __init__(self, model: nn.Module, encoder: str, device: torch.device) -> None:
        self.model = model
        self.encoder = encoder
        self.device = device
        self.times: dict[str, float] = defaultdict(float)
        self._depth = 0
        self._start = 0.0
        self._handles: list[Any] = []

    def __enter__(self) -> "PartTimer":
        whole = (f"{self.encoder}.", "data_preprocessor.")  # always called as one module
        for path, module in self.model.named_modules():
            contains_it = not path or self.encoder.startswith(f"{path}.")
            if not contains_it and not path.startswith(whole):
                part = self._part(path)
                self._handles.append(module.register_forward_pre_hook(self._enter))
                self._handles.append(module.register_forward_hook(self._leave(part)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _part(self, path: str) -> str:
        if path == self.encoder:
            return "encoder"
        return "preprocessing" if path == "data_preprocessor" else "neck_and_heads"

    def _now(self) -> float:
        synchronize(self.device)
        return 1e3 * time.perf_counter()

    def _enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._start = self._now()
        self._depth += 1

    def _leave(self, part: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._depth -= 1
            if self._depth == 0:
                self.times[part] += self._now() - self._start

        return hook


def measure_parts(
    model: nn.Module,
    encoder: str,
    step: Callable[[], object],
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 10,
    warmup: int = 2,
    items: int = 1,
    device: str | torch.device = "cpu",
) -> dict[str, Latencies]:
    """Time the parts of a test step, variants of the model in turn.

    Args:
        model: Model.
        encoder: Path of its encoder.
        step: One test step of the model.
        variants: Calls, by name, that turn the model into each variant; they are not timed.
        rounds: Timed steps of each variant.
        warmup: Steps of each before that.
        items: Images of one step.
        device: Where the model computes.

    Returns:
        By variant the times of each of :data:`PARTS`, and of their sum under the name 'sum'.
    """
    device = torch.device(device)
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in variants}

    def timed(name: str) -> None:
        variants[name]()
        with PartTimer(model, encoder, device) as timer:
            start = time.perf_counter()
            step()
            synchronize(device)
            total = 1e3 * (time.perf_counter() - start)
        timer.times["post_processing"] = total - sum(timer.times.values())
        steps[name].append({part: timer.times[part] for part in PARTS} | {"sum": total})

    turns = {name: partial(timed, name) for name in variants}
    whole = measure(turns, rounds=rounds, warmup=warmup, items=items, device=device)
    return {
        name: replace(
            whole, times={part: tuple(step[part] for step in taken[warmup:]) for part in taken[0]}
        )
        for name, taken in steps.items()
    }
