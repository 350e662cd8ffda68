"""Time of an exported model beside that of its dense twin in the same format."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cropr_mm.export.runtime import ExportedModel
from cropr_mm.export.runtime.pixels import Placed
from cropr_mm.profiling.environment import machine_name
from cropr_mm.profiling.latency import Latencies, measure


class Speed(NamedTuple):
    """Times of both files in turns.

    Attributes:
        latencies: Of 'dense' and 'pruned', in calls of the graph; the pictures are prepared before.
        machine: What it ran on.
    """

    latencies: Latencies
    machine: str

    def __str__(self) -> str:
        times = self.latencies
        rounds = len(times.times["pruned"])
        lines = [
            f"speed       {times.speedup('pruned', 'dense').text(rounds)} over dense in this "
            f"format: {times.median('pruned'):.1f} against {times.median('dense'):.1f} ms for "
            f"{times.items} images, {rounds} rounds, on {self.machine}"
        ]
        if not times.is_idle:
            lines.append(f"            NOT IDLE, load {times.load:.2f}: does not count")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain types for the card."""
        return {"machine": self.machine, **self.latencies.as_dict(base="dense")}


def time_beside_dense(pruned: ExportedModel, dense: ExportedModel, rounds: int) -> Speed:
    """Time one call of each, in turns, on random images.

    Args:
        pruned: The model that is shipped.
        dense: The same without reduction.
        rounds: Timed calls of each.
    """
    to = pruned.card.input
    count = to.batch or 1
    pixels = np.random.default_rng(0).normal(size=(count, 3, *to.size)).astype(np.float32)
    images = [Placed(image, to.size, to.size) for image in pixels]
    calls = {name: partial(m.run, images) for name, m in (("dense", dense), ("pruned", pruned))}
    return Speed(measure(calls, rounds=rounds, items=count), machine_name("cpu"))
