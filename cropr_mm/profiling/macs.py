"""Multiply-adds of what runs on the meta device, by kind.

One multiply-add (MAC) is one operation. Published GFLOPs of token pruning leave the matmuls
of attention out: ``linear`` below.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
_ATTENTION_OPS = frozenset({"bmm", "baddbmm"})


@dataclass(frozen=True)
class Macs:
    """Multiply-adds by kind.

    Attributes:
        layers: Of linear and convolution layers.
        scorers: Of matmuls inside reducers.
        attention: Of the matmuls of activations with each other, QK^T and AV.
    """

    layers: int = 0
    scorers: int = 0
    attention: int = 0

    @property
    def linear(self) -> int:
        """The published convention: matmuls with weights, so layers and scorers."""
        return self.layers + self.scorers

    @property
    def total(self) -> int:
        """All of them."""
        return self.linear + self.attention

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(
            self.layers + other.layers,
            self.scorers + other.scorers,
            self.attention + other.attention,
        )

    def __sub__(self, other: "Macs") -> "Macs":
        return self + Macs(-other.layers, -other.scorers, -other.attention)

    def as_dict(self) -> dict[str, int]:
        """Values for JSON."""
        return {
            "macs_linear": self.linear,
            "macs_total": self.total,
            "macs_scorers": self.scorers,
            "macs_attention": self.attention,
        }


@dataclass
class MacCounter:
    """Runs torch's operation counter and splits its count by kind."""

    macs_in_reducers: Macs = field(default_factory=Macs)

    def __post_init__(self) -> None:
        formulas = {
            aten.mv: _mv_flop,
            aten._euclidean_dist: _distance_flop,
            aten._cdist_forward: _distance_flop,
        }
        self._flops = FlopCounterMode(display=False, custom_mapping=formulas)
        self._handles: list[Any] = []
        self._entry = Macs()

    @contextmanager
    def running(self, module: nn.Module) -> Iterator[None]:
        """Count inside the block; hooks that were added are removed at its end."""
        for name, child in module.named_modules():
            if name.rpartition(".")[0].endswith("reducers"):
                self.before(child, self._enter_reducer)
                self._handles.append(child.register_forward_hook(self._leave_reducer))
        try:
            with torch.no_grad(), self._flops:
                yield
        finally:
            for handle in self._handles:
                handle.remove()

    def before(self, module: nn.Module, function: Callable[[], Any]) -> None:
        """Call a function whenever a module is about to run."""

        def hook(*_: Any) -> None:
            function()

        self._handles.append(module.register_forward_pre_hook(hook))

    @property
    def macs(self) -> Macs:
        """Count so far."""
        raw = self._raw
        return Macs(
            raw.layers - self.macs_in_reducers.layers,
            self.macs_in_reducers.total,
            raw.attention - self.macs_in_reducers.attention,
        )

    @property
    def _raw(self) -> Macs:
        """Count so far, by operation only: on meta, attention is made of batched matmuls."""
        attention = layers = 0
        for op, flops in self._flops.get_flop_counts().get("Global", {}).items():
            name = str(op).rpartition(".")[2]
            if name in _ATTENTION_OPS or "attention" in name:
                attention += flops // 2
            else:
                layers += flops // 2
        return Macs(layers=layers, attention=attention)

    def _enter_reducer(self) -> None:
        self._entry = self._raw

    def _leave_reducer(self, *_: Any) -> None:
        self.macs_in_reducers += self._raw - self._entry


def _mv_flop(matrix: Any, vector: Any, out_shape: Any = None, **_: Any) -> int:
    """Operations of a matrix-vector product, from shapes; torch's counter has no entry for it."""
    return 2 * matrix[0] * matrix[1]


def _distance_flop(one: Any, other: Any, *_: Any, **__: Any) -> int:
    """Operations of all distances between two sets of rows, (..., n, D) and (..., m, D).

    One multiply-add for each feature of each pair, whether or not torch makes a product of it.
    """
    return 2 * math.prod(one) * other[-2]
