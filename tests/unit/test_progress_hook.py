"""Progress lines: how many, and what they say."""

from types import SimpleNamespace

import pytest
import torch

from cropr_mm.hooks import ProgressHook, progress_hook
from cropr_mm.hooks.progress_hook import minutes


def lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, first: int, total: int
) -> list[str]:
    """What a training of one second per iteration shows in five lines."""
    clock = [0.0]
    monkeypatch.setattr(progress_hook, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    hook = ProgressHook(num_lines=5)
    runner = SimpleNamespace(iter=first, max_iters=total)
    hook.before_train(runner)
    for runner.iter in range(first, total):
        clock[0] += 1
        hook.after_train_iter(runner, runner.iter, outputs=dict(loss=torch.tensor(1.5)))
    return capfd.readouterr().out.splitlines()


def test_shows_a_line_per_part_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    head, *rest = lines(monkeypatch, capfd, 0, 500)
    assert head.split() == ["iterations", "1", "to", "500"]
    assert [line.split("/")[0].strip() for line in rest] == ["100", "200", "300", "400", "500"]
    assert "loss  1.500   1.00 s per iteration   6 min 40 s left" in rest[0]
    assert "0 min 00 s left" in rest[-1]


def test_pace_counts_from_where_a_resumed_training_started(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    head, *rest = lines(monkeypatch, capfd, 350, 500)
    assert head.split() == ["iterations", "351", "to", "500"]
    assert "1.00 s per iteration   1 min 40 s left" in rest[0]


def test_a_short_training_shows_every_iteration_and_the_last_one_always(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    assert len(lines(monkeypatch, capfd, 0, 3)) == 4
    assert "13/13" in lines(monkeypatch, capfd, 0, 13)[-1]


def test_time_is_for_people() -> None:
    assert minutes(125.9) == "2 min 05 s"


def test_no_lines_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_lines of at least 1, got 0"):
        ProgressHook(num_lines=0)
