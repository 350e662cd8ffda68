"""A video under a load that comes and goes, on a simulated clock."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from cropr_mm.export.runtime import DeadlineRunner, ExportError

USUAL_MS = dict(dense=30.0, half=20.0, most=12.0)


class Machine:
    """A clock that models move on; ``load`` is how many times slower they are."""

    def __init__(self, noise: float = 0.0) -> None:
        self.now = 0.0
        self.load = 1.0
        self.random = random.Random(0)
        self.noise = noise

    def clock(self) -> float:
        return self.now

    def model(self, name: str) -> Callable[[int], tuple[str, int]]:
        def run(frame: int) -> tuple[str, int]:
            jitter = 1 + self.noise * self.random.uniform(-1, 1)
            self.now += 1e-3 * USUAL_MS[name] * self.load * jitter
            return name, frame

        return run

    def runner(self, **options: float) -> DeadlineRunner:
        models = {name: self.model(name) for name in USUAL_MS}
        return DeadlineRunner(models, 40.0, clock=self.clock, **options)


def test_most_frames_are_in_time_where_the_dense_model_is_late() -> None:
    machine = Machine(noise=0.05)
    runner, dense = machine.runner(), machine.model("dense")
    late, names = 0, []
    for frame in range(1000):
        machine.load = 2.5 if frame // 100 % 2 else 1.0  # five times busy for 100 frames
        name, played = runner(frame)
        assert played == frame
        names.append(name)
        start = machine.clock()
        dense(frame)
        late += 1e3 * (machine.clock() - start) > 40
    report = runner.report
    assert late == 500
    assert report.share_met == 0.994  # late: the first frame, which times all, and one a load
    assert report.frames == 1000
    assert report.frames_of == Counter(names)
    assert report.worst_ms == pytest.approx(6 * 62 + 30, rel=0.06), "the first frame times all"
    idle = [name for frame, name in enumerate(names) if not frame // 100 % 2]
    assert idle.count("dense") > 400, "accuracy comes back with the time"
    assert report.switches <= 30
    assert "1000 frames within 40 ms" in str(report)


def test_the_first_frame_takes_as_long_as_the_times_of_all() -> None:
    machine = Machine()
    runner = machine.runner(rounds=5)
    runner(0)
    assert runner.report.worst_ms == pytest.approx(6 * (30 + 20 + 12) + 30)
    assert runner.report.share_met == 0.0


def test_one_slow_frame_is_enough_and_going_back_takes_patience() -> None:
    machine = Machine()
    runner = machine.runner(memory=4)
    names = []
    for frame, load in enumerate([1, 2, *[1] * 6]):
        machine.load = load
        names.append(runner(frame)[0])
    # Twice as slow, half a model would take 40 of 36 ms that are planned for.
    assert names == [*["dense"] * 2, *["most"] * 4, *["dense"] * 2]
    assert runner.report.switches == 2


def test_the_fastest_runs_where_none_is_in_time() -> None:
    machine = Machine()
    runner = machine.runner()
    runner(0)
    machine.load = 10.0
    names = [runner(frame)[0] for frame in range(4)]
    assert names[1:] == ["most"] * 3
    assert runner.report.met == 0


def test_the_fastest_need_not_be_the_last() -> None:
    machine = Machine()
    models = {name: machine.model(name) for name in ("dense", "most", "half")}
    runner = DeadlineRunner(models, 40.0, clock=machine.clock)
    runner(0)
    machine.load = 10.0
    assert [runner(frame)[0] for frame in range(3)][1:] == ["most"] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(deadline_ms=0), "deadline_ms > 0"),
        (dict(margin=1.5), r"margin in \(0, 1\], got 40.0 and 1\.5"),
        (dict(memory=0), "memory and rounds of at least 1, got 0 and 5"),
        (dict(models=dict(dense=len)), r"two models or more, got \['dense'\]"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    given = dict(models=dict(dense=len, most=len), deadline_ms=40.0)
    with pytest.raises(ExportError, match=message):
        DeadlineRunner(**{**given, **options})
