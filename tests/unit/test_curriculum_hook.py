"""The curriculum sets the pruning rate of every backbone, and goes on exactly after a break."""

from pathlib import Path

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from reducing_runner import EPOCHS, ITERS, LOADER, Model, make_runner, seen
from torch import nn

from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook, ramp
from cropr_mm.schedules import ConstantRate, ScheduleSettings

# The released code's rates for 64 epochs and a rate of 40.
PUBLISHED = [
    *(0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 18, 19, 20, 21, 23, 24, 25, 27, 28, 29, 30),
    *(32, 33, 34, 36, 37, 38, 40),
    *[40] * 32,
]


def rates(num_steps: int, rate: int, end: float = 0.5) -> list[int]:
    """Tokens that the second module of ADE20k's schedule removes at each step."""
    full = ScheduleSettings(1024, num_prefix=1, depth=24, window_size=None, last_site=21)
    schedule, shares = ConstantRate(rate), [ramp(step, num_steps, end) for step in range(num_steps)]
    plans = [schedule(full._replace(progress=share)) for share in shares]
    assert [1024 - plan[0] for plan in plans] == [p[0] - p[1] + 1 for p in plans], "one more first"
    return [plan[0] - plan[1] for plan in plans]


def test_rates_are_those_of_the_released_code() -> None:
    assert rates(64, 40) == PUBLISHED
    for num_steps in (2, 4, 10, 100):
        rise = torch.linspace(0, 40, num_steps // 2).long().tolist()
        assert rates(num_steps, 40) == rise + [40] * (num_steps - num_steps // 2)


@pytest.mark.parametrize(
    ("num_steps", "end", "expected"),
    [
        (5, 0.5, [0, 1, 1, 1, 1]),
        (7, 0.5, [0, 0.5, 1, 1, 1, 1, 1]),
        (1, 0.5, [1]),
        (3, 0.5, [0, 1, 1]),
        (3, 1.0, [0, 0.5, 1]),
        (100, 0.29, [step / 28 for step in range(29)] + [1] * 71),
    ],
)
def test_odd_lengths_end_where_they_should(
    num_steps: int, end: float, expected: list[float]
) -> None:
    assert [ramp(step, num_steps, end) for step in range(num_steps)] == expected


def test_a_late_start_and_a_cosine_rise_gently() -> None:
    linear, cosine = (
        [ramp(step, 10, 0.7, 0.2, shape) for step in range(10)] for shape in ("linear", "cosine")
    )
    assert linear == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    half = 0.5**0.5 / 2  # of the cosine of 45 degrees
    assert cosine == pytest.approx([0, 0, 0, 0.5 - half, 0.5, 0.5 + half, 1, 1, 1, 1])


def test_epochs_rise_and_validation_takes_the_current_rate(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, dict(), EPOCHS)
    runner.train()
    assert seen(runner, "loss") == [0, 0, 0.5, 0.5, 1, 1, 1, 1, 1, 1, 1, 1]
    assert seen(runner, "predict") == [0.5, 0.5, 1, 1, 1, 1]
    assert runner.message_hub.get_scalar("train/cropr_progress").data[0].tolist()[:4] == [
        *(0, 0, 0.5, 0.5),
    ]


def test_iterations_rise_and_validation_takes_the_final_rate(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, dict(by_epoch=False, val_progress="final", end=1.0), ITERS)
    runner.train()
    assert seen(runner, "loss") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert seen(runner, "predict") == [1] * 6


def test_start_and_shape_reach_the_backbone(tmp_path: Path) -> None:
    hook = dict(by_epoch=False, start=1 / 6, end=1.0, shape="cosine")
    runner = make_runner(tmp_path, hook, ITERS)
    runner.train()
    expected = [ramp(step, 6, 1.0, 1 / 6, "cosine") for step in range(6)]
    assert expected[3] == pytest.approx(0.5)
    assert seen(runner, "loss") == pytest.approx(expected)


@pytest.mark.parametrize("train_cfg", [EPOCHS, ITERS])
def test_resumed_training_goes_on_as_it_began(train_cfg: dict, tmp_path: Path) -> None:
    hook = dict(by_epoch=train_cfg["by_epoch"], end=1.0)
    whole = make_runner(tmp_path / "whole", hook, train_cfg)
    whole.train()
    unit = "epoch" if train_cfg["by_epoch"] else "iter"
    file = tmp_path / f"whole/{unit}_3.pth"
    assert torch.load(file, weights_only=False)["cropr_curriculum"] == dict(
        by_epoch=train_cfg["by_epoch"], num_steps=6, progress=0.4
    )
    # Also with more epochs than it began with.
    longer = {k: 8 if k.startswith("max") else v for k, v in train_cfg.items()}
    for cfg, extra in ((train_cfg, 0), (longer, 2)):
        part = make_runner(tmp_path / f"part{extra}", hook, cfg, load_from=str(file), resume=True)
        part.train()
        expected = seen(whole, "loss")
        per_step = len(expected) // 6
        assert seen(part, "loss") == expected[3 * per_step :] + [1.0] * extra * per_step


def test_weights_of_another_training_say_nothing_about_the_length(tmp_path: Path) -> None:
    make_runner(tmp_path / "a", dict(end=1.0), EPOCHS).train()
    runner = make_runner(
        *(tmp_path / "b", dict(end=1.0), dict(EPOCHS, max_epochs=3)),
        load_from=str(tmp_path / "a/epoch_2.pth"),
    )
    runner.train()
    assert seen(runner, "loss") == [0, 0, 0.5, 0.5, 1, 1]


class Record(Hook):
    """Progress of averaged copies."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.copies: list[float] = []

    def after_train_epoch(self, runner: Runner) -> None:
        for hook in runner.hooks:
            if hasattr(hook, "ema_model"):
                self.copies.append(hook.ema_model.module.backbone.progress)


def test_averaged_copies_follow(tmp_path: Path) -> None:
    record = Record()
    hooks = [dict(type="cropr_mm.CroprCurriculumHook"), dict(type="EMAHook"), record]
    runner = make_runner(tmp_path, dict(), EPOCHS, custom_hooks=hooks)
    runner.train()
    assert record.copies == [0, 0.5, 1, 1, 1, 1]


def test_wrapped_model_is_found(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    runner = make_runner(tmp_path, dict(), EPOCHS)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CroprCurriculumHook))
    runner.model = Wrapped(runner.model)
    hook.before_train(runner)
    assert runner.model.module.backbone.progress == 0


def test_tests_prune_fully(tmp_path: Path) -> None:
    runner = make_runner(
        tmp_path,
        dict(),
        EPOCHS,
        test_dataloader=LOADER,
        test_cfg=dict(),
        test_evaluator=Evaluator([]),
    )
    runner.model.backbone.progress = 0.25
    runner.test()
    assert seen(runner, "predict") == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(end=0), r"end in \(0, 1\], got 0"),
        (dict(end=1.5), r"end in \(0, 1\], got 1\.5"),
        (dict(val_progress="last"), "'current' or 'final', got 'last'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprCurriculumHook(**arguments)


def test_what_cannot_have_a_curriculum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"by_epoch=True\) expects a train loop of epochs"):
        make_runner(tmp_path / "a", dict(), ITERS).train()
    with pytest.raises(ValueError, match="that has reducer and schedule, got Model without"):
        make_runner(
            tmp_path / "b", dict(), EPOCHS, model=Model(reducer=None, schedule=None)
        ).train()
    with pytest.raises(ValueError, match="Sinkhorn has as many slots as the schedule leaves"):
        make_runner(
            tmp_path / "c", dict(), EPOCHS, model=Model(reducer=dict(type="cropr_mm.Sinkhorn"))
        ).train()
