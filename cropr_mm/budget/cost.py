"""What tokens cost on a device: learned from times of whole encoders, in the form that will run.

Blocks timed alone find their weights in the caches, and a compiler or another runtime fuses across
them; so a few whole encoders are timed under plans that differ, and the parts of their times are
found by least squares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cropr_mm.budget.work import Work


@dataclass(frozen=True)
class CostModel:
    """Milliseconds of one call as a sum of parts, none of them negative.

    Attributes:
        counts: Token counts, ascending, between which the time of a block is linear.
        block_ms: Time of a block at each count, without what grows with pairs of tokens.
        pair_ms: Time of a million pairs of tokens in attention.
        step_ms: Time of a step, whatever its size.
        choice_ms: What it takes longer for each thousand tokens that it chooses from.
        base_ms: Everything else: embedding, fusion, norm.
    """

    counts: tuple[int, ...]
    block_ms: tuple[float, ...]
    pair_ms: float
    step_ms: float
    choice_ms: float
    base_ms: float

    def block(self, live: int, keys: int) -> float:
        """Time of a block that sees ``live`` tokens, each of which looks at ``keys``."""
        linear = float(np.interp(live, self.counts, self.block_ms))
        return linear + self.pair_ms * live * keys / 1e6

    def step(self, entering: int) -> float:
        """Time of a step that chooses from so many tokens."""
        return self.step_ms + self.choice_ms * entering / 1e3

    def predict(self, work: Work) -> float:
        """Time of a whole encoder."""
        blocks = sum(map(self.block, work.live, work.keys))
        return self.base_ms + blocks + sum(map(self.step, work.entering))

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "CostModel":
        """The inverse of :meth:`as_dict`."""
        lists = {name: tuple(record[name]) for name in ("counts", "block_ms")}
        return cls(**{**record, **lists})


def fit_cost(works: Sequence[Work], times: Sequence[float], counts: Sequence[int]) -> CostModel:
    """Find the parts of measured times; relative errors count alike.

    Args:
        works: What was done.
        times: Milliseconds of each.
        counts: Token counts among which the time of a block is found.
    """
    counts = sorted(counts)
    rows = np.array([_features(work, counts) for work in works])
    scale = np.maximum(rows.max(axis=0), 1e-12)
    weights = 1 / np.asarray(times)
    found, _ = nnls(rows / scale * weights[:, None], np.ones(len(times)))
    *block_ms, pair, step, choice, base = (found / scale).tolist()
    return CostModel(tuple(counts), tuple(block_ms), pair, step, choice, base)


def _features(work: Work, counts: Sequence[int]) -> NDArray[np.float64]:
    """How often each part occurs."""
    identity = np.eye(len(counts))
    hats = [np.interp(work.live, counts, row).sum() for row in identity]
    pairs = sum(live * keys for live, keys in zip(work.live, work.keys, strict=True)) / 1e6
    return np.array([*hats, pairs, len(work.entering), sum(work.entering) / 1e3, 1.0])
