"""Faults of trainings whose model is in shards."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from processes import train_apart
from row import Row
from run_tool import run_tool
from tiny import tiny_config

FSDP = ("--strategy", "fsdp", "--device", "cpu")


def _pair(folder: Path, task: str, **changes: Any) -> None:
    """Train on two processes, which end with an error."""
    config = tiny_config(folder, task, **changes)
    assert train_apart(config, "--work-dir", folder / "run", *FSDP, pair=True) == 1


def _no_listener(folder: Path) -> None:
    _pair(folder, "seg", model__backbone__reducer=dict(type="cropr_mm.Cropr", num_classes=2))


def _unknown_option(folder: Path) -> None:
    _pair(folder, "cls", strategy=dict(type="FSDPStrategy", model_wrapper=dict(shards=3)))


def _old_torch(folder: Path) -> None:
    with patch("torch.__version__", "2.1.2"):
        run_tool("train.py", tiny_config(folder, "cls"), *FSDP, "--launcher", "pytorch")


SHARDS = "Models in shards"
ROWS = [
    Row(
        "shards-listener",
        SHARDS,
        "Cropr without CroprAuxLossHook",
        "^error: the model has Cropr modules that nothing trains",
        _no_listener,
    ),
    Row(
        "shards-option",
        SHARDS,
        "an argument that FSDP does not have",
        "^error: FullyShardedDataParallel.* unexpected keyword argument 'shards'",
        _unknown_option,
    ),
    Row(
        "shards-torch",
        SHARDS,
        "torch 2.1",
        r"--strategy fsdp expects torch 2\.6 or later, got 2\.1\.2",
        _old_torch,
    ),
]
