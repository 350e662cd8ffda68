"""Faults of low-rank adapters: settings, and checkpoints that belong to others."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from row import Row
from tiny import tiny_config, train_tiny, training

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.train import train
from cropr_mm.export.deploy import deploy_checkpoint

FIRST = "first/iter_2.pth"


def _second(folder: Path, lora: dict[str, Any] | None, start: Callable[[Path], None]) -> None:
    """Train with adapters of rank 4, then use the checkpoint in a model with others or none."""
    train_tiny(folder, "cls", "first", model__backbone__lora=dict(r=4))
    start(tiny_config(folder, "cls", model__backbone__lora=lora))


def _train(config: Path) -> None:
    folder = config.parent
    cfg = load_config(str(config), str(folder / "second"))
    train(cfg, load_from=str(folder / FIRST))


def _test(config: Path) -> None:
    evaluate(load_config(str(config), str(config.parent / "second")), str(config.parent / FIRST))


def _deploy(config: Path) -> None:
    folder = config.parent
    cfg = load_config(str(config), str(folder / "second"))
    deploy_checkpoint(cfg, folder / FIRST, folder / "deployed.pth")


def _init(config: Path) -> None:
    init = dict(type="Pretrained", checkpoint=str(config.parent / FIRST), prefix="backbone.")
    train_tiny(config.parent, "cls", "second", model__backbone__init_cfg=init)


ADAPTERS = "Low-rank adapters"
ROWS = [
    Row(f"lora-{name}", ADAPTERS, fault, says, run)
    for name, fault, says, run in (
        (
            "number",
            "`lora=8`",
            r"lora expects dict\(r=8\).*, got 8",
            training(model__backbone__lora=8),
        ),
        (
            "rank",
            "a training from adapters of another rank",
            r"lora_A\.weight: expected \(8, 16\), got \(4, 16\)",
            partial(_second, lora=dict(r=8), start=_train),
        ),
        (
            "scale",
            "a test with adapters of another alpha",
            r"adapters of alpha / r = 2: expected the same in backbone\.lora, got 1",
            partial(_second, lora=dict(r=4, alpha=4), start=_test),
        ),
        (
            "scale-deploy",
            "deploying with another alpha",
            r"adapters of alpha / r = 2: expected the same in backbone\.lora, got 1",
            partial(_second, lora=dict(r=4, alpha=4), start=_deploy),
        ),
        (
            "none",
            "a training without adapters from a file with some",
            r"has low-rank adapters: expected backbone\.lora in the config",
            partial(_second, lora=None, start=_train),
        ),
        (
            "encoder",
            "`init_cfg` with a file with adapters",
            "it has low-rank adapters: expected lora in the backbone",
            partial(_second, lora=None, start=_init),
        ),
    )
]
