"""Each millisecond of a test step belongs to one part; the clock here is moved by hand."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cropr_mm.profiling.model_parts import PARTS, PartTimer, measure_parts

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only where somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, milliseconds: float) -> None:
        self.now += 1e-3 * milliseconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Layer(nn.Module):
    """Takes a while, and its children theirs."""

    def __init__(self, clock: Clock, milliseconds: float, *children: nn.Module) -> None:
        super().__init__()
        self.clock = clock
        self.milliseconds = milliseconds
        self.inner = nn.ModuleList(children)

    def forward(self, x: Tensor) -> Tensor:
        self.clock.work(self.milliseconds)
        for child in self.inner:
            x = child(x)
        return x


class Head(Layer):
    """Has a method that calls its own forward, as heads of mmdet have, or without hooks (mmseg)."""

    def predict(self, x: Tensor, hooks: bool) -> Tensor:
        x = self(x) if hooks else self.forward(x)
        self.clock.work(1000)  # decoding
        return x


class Model(nn.Module):
    """Two-stage detector: encoder, neck, head, suppression, head on regions, pasting."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.data_preprocessor = Layer(clock, 1)
        self.backbone = Layer(clock, 10, Layer(clock, 20))
        self.neck = Layer(clock, 100, Layer(clock, 200))
        self.head = Head(clock, 400, Layer(clock, 600))
        self.hooks = True

    def test_step(self, x: Tensor) -> Tensor:
        return self(self.data_preprocessor(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.backbone(x))
        return self.head.predict(x, self.hooks)


def test_parts_are_those_of_the_outermost_modules(clock: Clock) -> None:
    model = Model(clock)
    encoders = dict(slow=model.backbone, fast=Layer(clock, 2, Layer(clock, 3)))
    variants = {name: partial(setattr, model, "backbone", e) for name, e in encoders.items()}
    result = measure_parts(
        model,
        "backbone",
        lambda: model.test_step(torch.zeros(1)),
        variants,
        rounds=2,
        warmup=1,
        items=4,
    )
    for name, encoder in (("slow", 30), ("fast", 5)):
        expected = dict(preprocessing=1, encoder=encoder, neck_and_heads=1300, post_processing=1000)
        assert list(result[name].times) == [*PARTS, "sum"]
        for part, milliseconds in expected.items():
            assert result[name].times[part] == pytest.approx([milliseconds] * 2)
        assert result[name].times["sum"] == pytest.approx([sum(expected.values())] * 2)
        assert result[name].items == 4
    modules = (*model.modules(), *encoders["slow"].modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


def test_a_head_without_a_call_counts_by_its_layers(clock: Clock) -> None:
    model = Model(clock)
    model.hooks = False
    with PartTimer(model, "backbone", CPU) as timer:
        model.test_step(torch.zeros(1))
    assert timer.times["neck_and_heads"] == pytest.approx(300 + 600)


def test_an_encoder_inside_another_module_is_found(clock: Clock) -> None:
    model = nn.Module()
    model.body = Layer(clock, 5, Layer(clock, 7), Layer(clock, 11))
    with PartTimer(model, "body.inner.1", CPU) as timer:
        model.body(torch.zeros(1))
    assert timer.times == pytest.approx(dict(neck_and_heads=7, encoder=11))


def test_hooks_go_away_when_the_step_fails(clock: Clock) -> None:
    model = Model(clock)
    with pytest.raises(RuntimeError, match="no"), PartTimer(model, "backbone", CPU):
        raise RuntimeError("no")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
