"""Interleaved timing: order, statistics and the record of how idle the machine was."""

import json
import multiprocessing
import time

import numpy as np
import pytest

from cropr_mm.profiling import latency
from cropr_mm.profiling.latency import Latencies, measure


def latencies(a: list[float], b: list[float], load: float = 0.0) -> Latencies:
    times = {"a": tuple(a), "b": tuple(b)}
    return Latencies(times, items=4, load=load, threads=1, device="cpu")


def test_functions_take_turns_in_a_new_order_after_their_warm_up() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    runs = []
    for _ in range(2):
        calls.clear()
        result = measure(functions, rounds=20, warmup=2, items=4)
        runs.append("".join(calls))
    assert runs[0] == runs[1], "the seed is fixed"
    assert runs[0][:6] == "abcabc"
    orders = [runs[0][i : i + 3] for i in range(6, 66, 3)]
    assert {"".join(sorted(order)) for order in orders} == {"abc"}
    assert len(set(orders)) == 6, "each order occurs"
    assert [len(times) for times in result.times.values()] == [20] * 3


def test_what_runs_before_a_call_is_not_in_its_time() -> None:
    calls: list[str] = []
    nap = dict(b=lambda: (calls.append("-"), time.sleep(0.02)))
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    result = measure(functions, rounds=2, warmup=1, before=nap)
    warmup, text = "".join(calls[:2]), "".join(calls[2:])
    assert warmup == "ab"
    assert text.count("-b") == text.count("-") == text.count("b") == text.count("a") == 2
    assert result.median("b") < 10


def test_times_are_milliseconds_of_wall_time() -> None:
    result = measure({"nap": lambda: time.sleep(0.02)}, rounds=3, warmup=0)
    assert all(20 <= t < 200 for t in result.times["nap"])


def test_statistics_are_those_of_the_times() -> None:
    result = latencies([10, 20, 30, 40, 50], [5, 10, 15, 20, 25])
    assert result.median("a") == 30
    assert result.quantile("a", 0.1) == pytest.approx(14)
    assert result.throughput("a") == pytest.approx(4 / 0.030)
    assert result.speedup("b", base="a") == (2.0, 2.0, 2.0), "rounds stay paired"


def test_interval_of_a_ratio_covers_the_truth_and_shrinks_with_rounds() -> None:
    g = np.random.default_rng(0)
    widths = []
    for rounds in (10, 1000):
        a, b = g.normal(30, 3, rounds), g.normal(20, 2, rounds)
        value, low, high = latencies(list(a), list(b)).speedup("b", base="a")
        assert low < 1.5 < high
        assert low <= value <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 4


def test_record_survives_json_and_names_everything() -> None:
    record = json.loads(json.dumps(latencies([2, 4], [1, 2], load=0.5).as_dict(base="a")))
    assert record["functions"]["b"]["times_ms"] == [1, 2]
    assert record["functions"]["b"]["speedup"]["value"] == 2
    assert (record["idle"], record["load"], record["threads"]) == (False, 0.5, 1)


def test_table_columns_are_aligned() -> None:
    lines = latencies([100] * 5, [50] * 5).table(base="a").splitlines()
    assert lines[0].split() == ["im/s", "median", "ms", "p10-p90", "ms", "speed-up", "(95", "%)"]
    assert lines[2].split() == ["b", "80.00", "50.0", "50.0-50.0", "2.00x", "(2.00-2.00)"]
    assert len({len(line) for line in lines}) == 1


def test_few_rounds_show_no_interval() -> None:
    assert latencies([100] * 4, [50] * 4).table(base="a").endswith("2.00x (-)")


def test_own_work_is_no_load_and_that_of_others_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = dict(busy=100.0, own=10.0, wall=0.0)
    monkeypatch.setattr(latency, "_busy_seconds", lambda: seconds["busy"])
    monkeypatch.setattr(time, "process_time", lambda: seconds["own"])
    monkeypatch.setattr(time, "perf_counter", lambda: seconds["wall"])
    meter = latency._LoadMeter()
    seconds.update(busy=108.0, own=15.0, wall=10.0)
    assert meter.read() == pytest.approx(0.3)
    monkeypatch.setattr(latency, "_busy_seconds", lambda: None)
    assert meter.read() == meter.load_average


def test_busy_seconds_grow_with_another_process() -> None:
    before = latency._busy_seconds()
    if before is None:
        pytest.skip("this system does not tell how busy it is")
    worker = multiprocessing.get_context("fork").Process(target=_spin)
    worker.start()
    worker.join()
    assert latency._busy_seconds() - before >= 0.2


def _spin() -> None:
    while time.process_time() < 0.3:
        pass


@pytest.mark.parametrize(
    ("functions", "arguments"),
    [({}, {}), ({"a": int}, dict(rounds=0)), ({"a": int}, dict(warmup=-1))],
)
def test_impossible_arguments_raise(functions: dict, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"expected|at least one"):
        measure(functions, **arguments)


def test_rounds_are_told_when_they_are_done() -> None:
    seen: list[tuple[int, int]] = []
    calls: list[int] = []
    measure(
        {"a": lambda: calls.append(0)},
        rounds=3,
        warmup=2,
        on_round=lambda n: seen.append((n, len(calls))),
    )
    assert seen == [(1, 3), (2, 4), (3, 5)]
