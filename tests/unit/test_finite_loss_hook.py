"""A loss or a weight that is not finite stops a training before a good checkpoint is replaced."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from toy_runner import toy_runner, weights

from cropr_mm.hooks.finite_loss_hook import FiniteLossHook, NonFiniteError


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_training_stops_before_the_next_checkpoint(factor: float, tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, factor)
    message = (
        rf"not finite in iteration 6: loss {factor}, loss_a {factor}; images of that batch: "
        rf"image_5\.jpg\. The last checkpoint, {tmp_path}/iter_4\.pth, is from before"
    )
    with pytest.raises(NonFiniteError, match=message):
        runner.train()
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["iter_2.pth", "iter_4.pth"]
    assert weights(tmp_path / "iter_4.pth").isfinite().all()
    assert runner.iter == 5


def test_it_is_read_every_interval_without_a_checkpoint(tmp_path: Path) -> None:
    hooks = dict(checkpoint=None, finite_loss=dict(type="cropr_mm.FiniteLossHook", interval=7))
    runner = toy_runner(tmp_path, float("nan"), default_hooks=hooks)
    with pytest.raises(NonFiniteError, match=r"image_5\.jpg\. No checkpoint was written"):
        runner.train()
    assert runner.iter == 6


class Spoil(Hook):
    """Makes a weight NaN after the step of an iteration, while losses are finite."""

    priority = "HIGH"

    def after_train_iter(self, runner: Any, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if batch_idx == 3:
            runner.model.fc.weight.data[0, 1] = float("nan")


def test_weights_are_looked_at_before_a_checkpoint(tmp_path: Path) -> None:
    runner = toy_runner(tmp_path, custom_hooks=[Spoil()])
    with pytest.raises(NonFiniteError, match=r"weights .* are not finite after iteration 4"):
        runner.train()
    assert [file.name for file in tmp_path.glob("*.pth")] == ["iter_2.pth"]


def test_finite_losses_pass(tmp_path: Path) -> None:
    toy_runner(tmp_path).train()
    assert (tmp_path / "iter_8.pth").exists()


def stepped(hook: FiniteLossHook, losses: list[float], scaler: bool) -> SimpleNamespace:
    """A runner whose iterations had these losses."""
    enabled = SimpleNamespace(is_enabled=lambda: scaler)
    hub = SimpleNamespace(runtime_info={})
    runner = SimpleNamespace(
        optim_wrapper=SimpleNamespace(loss_scaler=enabled), message_hub=hub, iter=0
    )
    for i, loss in enumerate(losses):
        runner.iter = i
        hook.after_train_iter(runner, i, {}, {"loss": torch.tensor(loss), "acc": torch.tensor(1.0)})
    return runner


def test_steps_that_a_loss_scaler_skips_are_no_faults() -> None:
    nan = float("nan")
    hook = FiniteLossHook(interval=100, patience=3)
    hook.check(stepped(hook, [nan, nan, 1.0, nan, nan], scaler=True))
    hook = FiniteLossHook(interval=100, patience=3)
    runner = stepped(hook, [1.0, nan, nan, nan], scaler=True)
    with pytest.raises(NonFiniteError, match="in iteration 2"):
        hook.check(runner)
    hook = FiniteLossHook(interval=100, patience=3)
    runner = stepped(hook, [nan, 1.0], scaler=False)
    with pytest.raises(NonFiniteError, match="in iteration 1"):
        hook.check(runner)


def test_only_losses_count() -> None:
    hook = FiniteLossHook()
    runner = stepped(hook, [], scaler=False)
    hook.after_train_iter(runner, 0, {}, {"acc": torch.tensor(float("nan")), "loss": "text"})
    hook.check(runner)


def test_no_iteration_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = FiniteLossHook(interval=100)
    runner = stepped(hook, [1.0], scaler=False)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):

        def refuse(self: Any, *args: Any, name: str = name) -> None:
            raise AssertionError(f"{name} waits for the device")

        monkeypatch.setattr(torch.Tensor, name, refuse)
    hook.after_train_iter(runner, 1, {}, {"loss": torch.tensor(1.0)})


@pytest.mark.parametrize("arguments", [dict(interval=0), dict(patience=0)])
def test_arguments_are_checked(arguments: dict) -> None:
    with pytest.raises(ValueError, match="expected interval >= 1 and patience >= 1"):
        FiniteLossHook(**arguments)
