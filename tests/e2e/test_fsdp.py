"""Shards of a model train as copies of it do: two processes, gloo, tools/train.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_tasks import BACKBONE, write_config, write_images

from cropr_mm.checkpoints import safe_load

HERE = Path(__file__).parent
ITERATIONS, HALF = 20, 10
DEPTH = BACKBONE["arch"]["depth"]
CHANGES = dict(
    train_cfg=dict(type="IterBasedTrainLoop", max_iters=ITERATIONS, val_interval=ITERATIONS),
    default_hooks__checkpoint__interval=HALF,
    default_hooks__checkpoint__save_best="mIoU",
    model__backbone__reducer=dict(type="cropr_mm.Cropr", num_classes=2, num_queries=(4, 4)),
    model__backbone__with_cp=True,
    model__backbone__drop_path_rate=0.1,
    optim_wrapper=dict(
        type="cropr_mm.CroprOptimWrapper",
        accumulative_counts=2,
        clip_grad=dict(max_norm=0.5),
        constructor="cropr_mm.LayerDecayConstructor",
        paramwise_cfg=dict(decay_rate=0.7),
        optimizer=dict(type="AdamW", lr=1e-2, weight_decay=0.1),
    ),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=4),
        dict(type="PolyLR", by_epoch=False, begin=4),
    ],
    custom_hooks=[
        dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False, end=0.8),
        dict(type="cropr_mm.CroprAuxLossHook", target=dict(type="cropr_mm.PatchLabelTarget")),
        dict(type="mmengine.FsdpWatch"),
    ],
)


@pytest.mark.slow
def test_shards_train_as_copies_do(tmp_path: Path) -> None:
    write_images(tmp_path)
    config = write_config(tmp_path, "seg", **CHANGES)
    report = run_worker(config, tmp_path)
    ddp, fsdp = report["ddp"]["ranks"], report["fsdp"]["ranks"]

    plain = plain_model(config)
    total = sum(p.numel() for p in plain.parameters())
    assert [rank["values"] for rank in ddp] == [total, total]
    assert [rank["units"] for rank in fsdp] == [1 + 2 * DEPTH] * 2
    assert sum(rank["values"] for rank in fsdp) == total
    assert max(rank["values"] for rank in fsdp) < 0.55 * total

    for one, other in zip(ddp, fsdp, strict=True):
        assert_same(one["logged"], other["logged"], ITERATIONS)
    for name in ("from fsdp", "from ddp"):
        for whole, rest in zip(fsdp, report[name]["ranks"], strict=True):
            assert_same(whole["logged"][HALF:], rest["logged"], ITERATIONS - HALF)

    for step in (HALF, ITERATIONS):
        mine, theirs = (load(tmp_path / name, step) for name in ("fsdp", "ddp"))
        assert mine["meta"]["iter"] == theirs["meta"]["iter"] == step
        assert_close(mine["state_dict"], theirs["state_dict"])
        assert_close(moments(mine), moments(theirs))
        assert mine["param_schedulers"] == theirs["param_schedulers"]
        assert mine["cropr_curriculum"] == theirs["cropr_curriculum"]
        settings = [c["optimizer"]["base_param_settings"] for c in (mine, theirs)]
        assert settings[0]["lr"] == settings[1]["lr"]
    plain.load_state_dict(load(tmp_path / "fsdp", ITERATIONS)["state_dict"])
    assert (tmp_path / f"fsdp/best_mIoU_iter_{ITERATIONS}.pth").is_file()
    assert not list((tmp_path / "fsdp").glob(".*.tmp"))

    for wanted, got, apart in report["clipped"].values():
        assert got == pytest.approx(wanted)
        assert apart < 1e-6
    assert report["stopped"] == [True, True]
    assert report["refused"].endswith("units of those of blocks 0, 1, 2")


@pytest.mark.slow
def test_reducers_that_nothing_trains_are_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    changes = {**CHANGES, "custom_hooks": []}
    config = write_config(tmp_path, "seg", **changes)
    alone = dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    options = ["--strategy", "fsdp", "--launcher", "pytorch", "--work-dir", str(tmp_path / "run")]
    result = subprocess.run(
        [sys.executable, str(HERE.parents[1] / "tools/train.py"), str(config), *options],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), **alone},
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        "error: the model has Cropr modules that nothing trains"
    )


def run_worker(config: Path, out: Path) -> dict[str, Any]:
    """Run two processes, and return what they report."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*run, str(HERE / "fsdp_worker.py"), str(config), str(out)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return json.loads((out / "report.json").read_text())


def plain_model(config: Path) -> torch.nn.Module:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def load(folder: Path, step: int) -> dict[str, Any]:
    return safe_load(folder / f"iter_{step}.pth")


def moments(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """State of an optimizer by the names that layer decay gives its parameters."""
    groups = checkpoint["optimizer"]["param_groups"]
    keys = [
        pair for group in groups for pair in zip(group["params"], group["param_names"], strict=True)
    ]
    state = checkpoint["optimizer"]["state"]
    return {f"{name}.{kind}": value for key, name in keys for kind, value in state[key].items()}


def assert_same(one: list[dict], other: list[dict], number: int) -> None:
    """Losses and norms of two trainings agree."""
    assert len(one) == len(other) == number
    for first, second in zip(one, other, strict=True):
        assert second == pytest.approx(first, abs=1e-4)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-4, msg=name)
