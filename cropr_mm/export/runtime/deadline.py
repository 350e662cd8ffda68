"""Meet a deadline for each frame of a video with several rates of one model."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cropr_mm.export.runtime.errors import ExportError


@dataclass
class DeadlineReport:
    """What became of the frames so far.

    Attributes:
        deadline_ms: Milliseconds that a frame may take.
        met: Frames that met it.
        worst_ms: The longest that a frame took; 0 before the first.
        switches: How often a frame was given another model than the one before.
        frames_of: Frames that each model was given, by name.
    """

    deadline_ms: float
    met: int = 0
    worst_ms: float = 0.0
    switches: int = 0
    frames_of: Counter[str] = field(default_factory=Counter)
    _last: str | None = None

    def add(self, name: str, ms: float) -> None:
        """Count a frame.

        Args:
            name: Its model.
            ms: Milliseconds that it took.
        """
        self.met += ms <= self.deadline_ms
        self.worst_ms = max(self.worst_ms, ms)
        self.switches += self._last not in (None, name)
        self.frames_of[name] += 1
        self._last = name

    @property
    def frames(self) -> int:
        """All frames."""
        return self.frames_of.total()

    @property
    def share_met(self) -> float:
        """Share of the frames that met the deadline, in [0, 1]; 1 before the first."""
        return self.met / self.frames if self.frames else 1.0

    def __str__(self) -> str:
        used = ", ".join(f"{name}: {count}" for name, count in self.frames_of.items())
        return (
            f"{self.share_met:.1%} of {self.frames} frames within {self.deadline_ms:g} ms, "
            f"worst {self.worst_ms:.1f} ms, {self.switches} switches ({used})"
        )


class DeadlineRunner:
    """Gives each frame to the most accurate model that is expected to be in time.

    All models are timed once on a first frame. From then on the *slowdown* of a frame is its time
    over that of its model. The next frame is expected to be slowed down as much as the worst of
    the last few: so the runner turns to a faster model after one slow frame, and to a more accurate
    one only when as many frames as ``memory`` were quick. A frame that is late is late; nothing is
    stopped.

    Args:
        models: Functions of a frame by name, from the most accurate to the fastest. Each returns
            when its work is done: on a GPU, with its result on the CPU.
        deadline_ms: Milliseconds that a frame may take.
        margin: Share of the deadline that is planned for, in (0, 1].
        memory: Frames that are looked back at.
        rounds: Calls of each model in the first timing, in turn; their median counts.
        clock: Seconds, as ``time.perf_counter``.

    Raises:
        ExportError: If an argument is out of range, or there are fewer than two models.
    """

    def __init__(
        self,
        models: Mapping[str, Callable[[Any], Any]],
        deadline_ms: float,
        margin: float = 0.9,
        memory: int = 10,
        rounds: int = 5,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if len(models) < 2:
            raise ExportError(f"expected two models or more, got {list(models)}")
        if not deadline_ms > 0 or not 0 < margin <= 1:
            raise ExportError(
                f"expected deadline_ms > 0 and margin in (0, 1], got {deadline_ms} and {margin}"
            )
        if memory < 1 or rounds < 1:
            raise ExportError(
                f"expected memory and rounds of at least 1, got {memory} and {rounds}"
            )
        self.models = dict(models)
        self.margin, self.rounds, self.clock = margin, rounds, clock
        self.report = DeadlineReport(deadline_ms)
        self._usual_ms: dict[str, float] = {}
        self._slowdowns: deque[float] = deque(maxlen=memory)

    def __call__(self, frame: Any) -> Any:
        """Result of a frame; the first also times all models."""
        arrived = self.clock()
        if not self._usual_ms:
            self._usual_ms = self._calibrate(frame)
        name = self.choose()
        start = self.clock()
        result = self.models[name](frame)
        end = self.clock()
        self._slowdowns.append(1e3 * (end - start) / self._usual_ms[name])
        self.report.add(name, 1e3 * (end - arrived))
        return result

    def choose(self) -> str:
        """The model for the next frame: the fastest where none is expected to be in time.

        Before the first frame, when no times are known, that is the last one.
        """
        expected = max(self._slowdowns, default=1.0)
        allowed = self.margin * self.report.deadline_ms
        fits = [name for name, ms in self._usual_ms.items() if ms * expected <= allowed]
        if fits:
            return fits[0]
        return min(reversed(self.models), key=lambda name: self._usual_ms.get(name, math.inf))

    def _calibrate(self, frame: Any) -> dict[str, float]:
        """Milliseconds of each model, the median of calls in turn after one that does not count."""
        times: dict[str, list[float]] = {name: [] for name in self.models}
        for number in range(self.rounds + 1):
            for name, model in self.models.items():
                start = self.clock()
                model(frame)
                if number:
                    times[name].append(1e3 * (self.clock() - start))
        return {name: max(median(values), 1e-6) for name, values in times.items()}
