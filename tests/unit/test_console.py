"""What the tools show of their progress."""

import io

import pytest
from rich.console import Console

from cropr_mm.engine import console
from cropr_mm.engine.console import show_rounds


def test_rounds_are_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "Console", lambda **_: terminal)
    with show_rounds(f"a long title{80 * '.'}", rounds=3) as on_round:
        assert "starting a long title" in screen.getvalue()
        on_round(2)
        assert all(part in screen.getvalue().split("\r")[-1] for part in ("2/3", "left"))
        on_round(3)
        assert screen.getvalue().endswith("\x1b[2K"), "cleared"


def test_nothing_is_shown_elsewhere(capfd: pytest.CaptureFixture) -> None:
    with show_rounds("batch 1", rounds=3) as on_round:
        on_round(1)
    assert capfd.readouterr() == ("", "")
