"""The demo of deadlines plays its frames under a load."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "configs/demo/cropr_tiny_vit_digits_cls.py"


def test_frames_of_both_are_reported(tool: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "deadline.json"
    options = ("--periods", 2, "--frames", 3, "--load", 1, "--shares", 0, 1)
    out = tool("benchmarks/speed.py", "deadline", CONFIG, *options, "--json", file)
    record = json.loads(file.read_text())
    assert len(record["alone"]["times_ms"]) == 6
    assert len(record["runner"]["times_ms"]) == 6
    assert {*record["runner"]["names"]} <= {"0", "1"}
    assert set(record["alone"]["names"]) == {"0"}
    assert record["runner"]["deadline_ms"] == pytest.approx(1.5 * record["usual_ms"])
    assert "of 6 frames within" in out


def test_bad_options_are_named(tool: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match="two ascending shares or more"):
        tool("benchmarks/speed.py", "deadline", CONFIG, "--shares", 1, 0)
