"""The time that an encoder's matmuls alone take on this machine, run one after another.

No arrangement of the same matmuls in this library can be faster than torch runs them: what an
encoder needs beyond the floor goes into everything else, such as normalization, activations, RoPE,
selection, copies and launches.

A floor is the sum of the medians of its matmuls, not the median of the sums of rounds: an
interruption that hits one sample would count there as often as that matmul occurs, and with a
hundred shapes hardly any round is free of one. The sum of medians is the lower of the two, so
multiples of it are rather too large than too small.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cropr_mm.profiling.latency import Latencies, Ratio, measure, ratio, resampled_medians
from cropr_mm.profiling.matmuls import Gemm, Matmul, Matmuls, Sdpa, is_linear, macs
from cropr_mm.profiling.packed_weights import pack, packed_linear
from cropr_mm.profiling.run_mode import attention_kernel

# Shortest sample: quicker matmuls are repeated, or the clock and launches would show.
_MIN_MS = 2.0
PROTOCOL = 2
"""Counts up when times come to mean something else; 2: an untimed call before each timed one."""


@dataclass(frozen=True)
class Floor:
    """Measured floor of one encoder, or of any other list of matmuls.

    Attributes:
        matmuls: How often each matmul occurs.
        times: Milliseconds of one call of each, in order of rounds; equal lengths.
        load: Mean number of cores that other processes kept busy while it was measured.
    """

    matmuls: Matmuls
    times: Mapping[Matmul, tuple[float, ...]]
    load: float

    @property
    def linear_ms(self) -> float:
        """Matmuls with weights: their MACs over the measured rate at their shapes."""
        return self._ms(linear=True)

    @property
    def attention_ms(self) -> float:
        """Matmuls of activations: their MACs over the measured rate at their shapes."""
        return self._ms(linear=False)

    @property
    def ms(self) -> float:
        """Milliseconds of one call of the encoder at this rate, a sum of medians."""
        return self.linear_ms + self.attention_ms

    @cached_property
    def resampled(self) -> NDArray[np.float64]:
        """The same of bootstrap samples of rounds, see :func:`resampled_medians`."""
        return np.sum([n * resampled_medians(self.times[p]) for p, n in self.matmuls.items()], 0)

    def multiple(self, times: Sequence[float]) -> Ratio:
        """Median of times in milliseconds, in multiples of the floor.

        Args:
            times: In order of the rounds that the floor was measured in; a bootstrap sample has
                the same rounds of both.
        """
        return ratio(float(np.median(times)) / self.ms, resampled_medians(times), self.resampled)

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON; MACs of the whole batch, rates in GMAC/s."""
        counts = {"linear": macs(self.matmuls, True), "attention": macs(self.matmuls, False)}
        times = {"linear": self.linear_ms, "attention": self.attention_ms}
        return {
            "ms": self.ms,
            **{f"{kind}_ms": ms for kind, ms in times.items()},
            **{f"macs_{kind}": count for kind, count in counts.items()},
            **{
                f"{kind}_gmacs_per_s": counts[kind] / ms / 1e6 if ms else None
                for kind, ms in times.items()
            },
            "load": self.load,
            "products": [
                {
                    "kind": type(matmul).__name__.lower(),
                    **{k: str(v) if k == "dtype" else v for k, v in matmul._asdict().items()},
                    "calls": count,
                    "ms": float(np.median(self.times[matmul])),
                }
                for matmul, count in self.matmuls.items()
            ],
        }

    def _ms(self, linear: bool) -> float:
        medians = {p: float(np.median(t)) for p, t in self.times.items() if is_linear(p) == linear}
        return sum(self.matmuls[p] * ms for p, ms in medians.items())


def measure_with_floors(
    functions: Mapping[str, Callable[[], object]],
    encoders: Mapping[str, Matmuls],
    *,
    device: str | torch.device = "cpu",
    rounds: int = 10,
    warmup: int = 2,
    items: int = 1,
    on_round: Callable[[int], object] | None = None,
) -> tuple[Latencies, dict[str, Floor]]:
    """Time functions, and in turn with them the matmuls of encoders.

    All are called once untimed right before each timed call, so times are those of a loop over one
    of them: between two turns of an encoder its weights would leave the caches. Each distinct shape
    is measured once a round, on random numbers in the layout of the encoder, without gradient.
    Operands share memory, so no more of it is needed than the largest take; they stay in the cache
    where they fit, which makes this a floor.

    Args:
        functions: What is compared with the floors, see :func:`measure`; may be none. Names do not
            begin with a slash.
        encoders: Matmuls by name of the encoder, see :func:`record_matmuls`; for the batch that
            the encoder is timed with.
        device: Where all of it runs.
        rounds: Timed calls of each function and samples of each shape.
        warmup: Calls and samples before that.
        items: Images that one call of a function processes.
        on_round: See :func:`measure`.

    Returns:
        Times of the functions, and floors by name of the encoder.

    Raises:
        ValueError: If there is no matmul, or a count is too small.
    """
    distinct = list(dict.fromkeys(matmul for matmuls in encoders.values() for matmul in matmuls))
    if not distinct:
        raise ValueError("expected encoders with matmuls, got none")
    device = torch.device(device)
    with torch.no_grad():
        operands = _Operands(device)
        calls = {f"/{i}": partial(_sample, p, operands.call(p)) for i, p in enumerate(distinct)}
        once = {name: partial(call, 1) for name, call in calls.items()}
        first = measure(once, rounds=1, warmup=0, before=once, device=device)
        repeats = {name: math.ceil(_MIN_MS / first.median(name)) for name in calls}
        samples = {name: partial(call, repeats[name]) for name, call in calls.items()}
        latencies = measure(
            {**functions, **samples},
            rounds=rounds,
            warmup=warmup,
            items=items,
            before={**functions, **once},
            device=device,
            on_round=on_round,
        )
    times = {
        matmul: tuple(ms / repeats[name] for ms in latencies.times[name])
        for name, matmul in zip(calls, distinct, strict=True)
    }
    floors = {
        name: Floor(matmuls, {matmul: times[matmul] for matmul in matmuls}, latencies.load)
        for name, matmuls in encoders.items()
    }
    return replace(latencies, times={n: latencies.times[n] for n in functions}), floors


class _Operands:
    """Random operands of any shape; those of one place and dtype share memory."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._pools: dict[tuple[int, torch.dtype], Tensor] = {}
        self._packed: tuple[Gemm, Tensor] | None = None  # of the last matmul alone: they are large

    def call(self, matmul: Matmul) -> Callable[[], Tensor]:
        """The matmul as a function without arguments."""
        if isinstance(matmul, Sdpa):
            return partial(self._sdpa, matmul)
        return partial(self._gemm, matmul)

    def _gemm(self, gemm: Gemm) -> Tensor:
        a, b = (gemm.rows, gemm.inner), (gemm.columns, gemm.inner)
        if gemm.batch is None and gemm.columns == 1:
            return torch.mv(self._take(0, a, gemm.dtype), self._take(1, b[1:], gemm.dtype))
        if gemm.packed:
            x, weight = self._take(0, a, gemm.dtype), self._take(1, b, gemm.dtype)
            if self._packed is None or self._packed[0] != gemm:
                self._packed = gemm, pack(weight, gemm.rows)
            return packed_linear(x, weight, self._packed[1])
        if gemm.batch is None:
            return F.linear(self._take(0, a, gemm.dtype), self._take(1, b, gemm.dtype))
        left = self._take(0, (gemm.batch, *a), gemm.dtype)
        return torch.bmm(left, self._take(1, (gemm.batch, *b), gemm.dtype).transpose(1, 2))

    def _sdpa(self, sdpa: Sdpa) -> Tensor:
        lengths = (sdpa.queries, sdpa.keys, sdpa.keys)
        q, k, v = (
            # Heads lie side by side in a token, as a layer leaves them.
            self._take(i, (sdpa.batch, n, sdpa.heads, sdpa.head_dim), sdpa.dtype).transpose(1, 2)
            for i, n in enumerate(lengths)
        )
        bias = None
        if sdpa.biased:
            bias = self._take(3, (sdpa.batch, sdpa.heads, sdpa.queries, sdpa.keys), sdpa.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def _take(self, place: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = torch.Size(shape).numel()
        pool = self._pools.get((place, dtype))
        if pool is None or pool.numel() < size:
            pool = torch.randn(size, device=self.device).to(dtype)
            self._pools[place, dtype] = pool
        return pool[:size].view(shape)


def _sample(matmul: Matmul, call: Callable[[], object], times: int) -> None:
    kernel = matmul.kernel if isinstance(matmul, Sdpa) else "auto"
    with attention_kernel(kernel):
        for _ in range(times):
            call()
