"""Tools shorten what checks raise on purpose; a bug keeps its traceback."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from cropr_mm.checkpoints import CheckpointError
from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.console import short_errors
from cropr_mm.engine.errors import building_errors, message_of, running_errors
from cropr_mm.engine.preflight import SetupError
from cropr_mm.registry import HOOKS, MODELS
from cropr_mm.schedules import ConstantRate
from cropr_mm.schedules.base import ScheduleSettings


@HOOKS.register_module()
class PluginHook(Hook):
    """A user's hook; what is wrong with it depends on its argument."""

    def __init__(self, fault: str = "") -> None:
        assert fault != "assertion", "expected another fault"
        if fault == "value":
            raise ValueError("expected another value")
        if fault == "type":
            len(3)  # type: ignore[arg-type]
        if fault == "key":
            dict(a=1)["b"]


def build(**arguments: object) -> Callable[[], object]:
    return lambda: HOOKS.build(dict(type="cropr_mm.PluginHook", **arguments))


def unknown() -> object:
    return MODELS.build(dict(type="cropr_mm.Absent"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (build(fault="value"), r"expected another value \(raised in .*test_errors.py"),
        (build(fault="assertion"), "expected another fault"),
        (build(flaut="value"), "unexpected keyword argument 'flaut'"),
        (unknown, "Absent is not in the"),
    ],
)
def test_mistakes_in_a_config_are_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: .*{message}"), short_errors(), building_errors():
        call()


@pytest.mark.parametrize("traceback", [False, True])
@pytest.mark.parametrize(("fault", "kind"), [("type", TypeError), ("key", KeyError)])
def test_bugs_of_a_plug_in_keep_their_traceback(fault: str, kind: type, traceback: bool) -> None:
    expected = pytest.raises(kind)
    with expected as end, short_errors(ValueError, kind, traceback=traceback), building_errors():
        build(fault=fault)()
    assert end.traceback[-1].path == Path(__file__)


@pytest.mark.parametrize("kind", [SetupError, CheckpointError, FileNotFoundError])
def test_the_option_keeps_every_traceback(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = ArgumentParser()
    add_traceback_option(parser)
    for arguments, expected in ((["tool"], SystemExit), (["tool", "--traceback"], kind)):
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(expected), short_errors(traceback=parser.parse_args().traceback):
            raise kind("expected a file")
    with pytest.raises(TypeError, match="'flaut'"), short_errors(traceback=True):
        build(flaut="value")()


def test_data_that_do_not_fit_while_a_loop_runs_are_named() -> None:
    settings = ScheduleSettings(4, num_prefix=0, depth=5, window_size=None, last_site=2)
    with pytest.raises(SetupError, match=r"ConstantRate.*raised in"), running_errors():
        ConstantRate(4)(settings)
    with pytest.raises(ValueError, match="in_features") as end, running_errors():
        raise ValueError("in_features of another package")
    assert not isinstance(end.value, SetupError)
    with pytest.raises(TypeError), running_errors():
        nn.Linear(2, 2)(None)


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, short_errors(hint="--resume goes on"):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert "interrupted; --resume goes on" in capsys.readouterr().err


def test_a_memory_that_is_too_small_is_named_and_other_bugs_keep_their_traceback() -> None:
    with pytest.raises(SystemExit, match=r"memory is too small: .*allocate"), short_errors():
        torch.empty(10**15)
    with pytest.raises(RuntimeError, match="shape"), short_errors():
        torch.ones(2).view(3)
    with pytest.raises(SetupError, match="too large"), building_errors():
        torch.empty(10**15)


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        (dict(type="cropr_mm.Croper"), "nearest name of this package is cropr_mm.Cropr"),
        (dict(type="RandomPruner"), "nearest name of this package is cropr_mm.RandomPruner"),
        (dict(type="cropr_mm.Cropr", embed_dim=8, num_querys=2), "num_queries"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(cfg: dict, says: str) -> None:
    with pytest.raises((KeyError, TypeError)) as caught:
        MMENGINE_MODELS.build(cfg)
    assert says in message_of(caught.value)
