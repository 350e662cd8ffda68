"""Training refuses to run on the CPU beside a GPU that it could use."""

from pathlib import Path

import pytest

from cropr_mm.engine.preflight import SetupError, check_device, device
from cropr_mm.engine.preflight.device import Machine, this_machine, unused_gpu

GOOD = Machine(gpu=True, torch="2.11.0+cu130", cuda="13.0", usable=True, cuda_ops=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"cuda_ops": None}, ""),  # mmcv-lite: classification needs no ops
        ({"gpu": False, "usable": False, "cuda_ops": False}, ""),
        ({"cuda": None, "usable": False}, "built without CUDA"),
        ({"usable": False}, "driver may be too old for CUDA 13.0"),
        ({"cuda_ops": False}, "CPU ops only"),
    ],
)
def test_unused_gpu_is_named(change: dict, says: str) -> None:
    problem = unused_gpu(GOOD._replace(**change))
    assert says in problem
    assert bool(says) == bool(problem)


def test_training_stops_and_offers_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "this_machine", lambda: GOOD._replace(usable=False))
    with pytest.raises(SetupError, match="--device cpu"):
        check_device()


@pytest.mark.parametrize(
    ("visible", "seen"), [(None, True), ("0", True), ("", False), ("-1", False)]
)
def test_hidden_gpu_is_none(
    visible: str | None, seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "_DEVICES", (tmp_path / "nvidia0",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert this_machine().gpu is seen
