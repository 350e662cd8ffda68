"""Check, then test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process

from cropr_mm.engine.build_runner import build_runner, print_outputs
from cropr_mm.engine.checkpoint_io import existing_checkpoint
from cropr_mm.engine.config import require_entries
from cropr_mm.engine.errors import running_errors
from cropr_mm.engine.first_image import check_first_image
from cropr_mm.engine.force_share import force_share
from cropr_mm.engine.options import add_hook, dump_predictions, show_predictions
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import as_setup_error, check_device
from cropr_mm.engine.runner import ToolRunner
from cropr_mm.engine.tta import enable_tta
from cropr_mm.hooks.benchmark_hook import CroprBenchmarkHook
from cropr_mm.hooks.prune_audit_hook import PruneAuditHook


def evaluate(
    cfg: Config,
    checkpoint: str,
    out: str | None = None,
    show_dir: str | None = None,
    benchmark: bool = False,
    rounds: int = 20,
    audit: bool = False,
    tta: bool = False,
    progress: float | None = None,
) -> dict[str, Any]:
    """Check, then test.

    Args:
        cfg: Config from :func:`load_config`; changed in place.
        checkpoint: Checkpoint of exactly this model.
        out: File (.pkl) for all predictions.
        show_dir: Folder for pictures of all predictions.
        benchmark: Also time the model against its dense twin.
        rounds: Timed calls of each part of the benchmark.
        audit: Also find out which ground-truth objects lost their tokens.
        tta: Test with test-time augmentation, see :func:`enable_tta`.
        progress: Share of the full reduction, in [0, 1], also with a curriculum; None for all of
            it.

    Returns:
        Metrics by name, also written to ``test_metrics.json`` in the working folder.

    Raises:
        SetupError: If config, data or checkpoint do not fit.
    """
    prepare_test(cfg, checkpoint)
    if out is not None:
        check_writable("--out", out)
    if show_dir is not None:
        check_writable("--show-dir", show_dir, folder=True)
    if tta:
        enable_tta(cfg)
    if out is not None:
        dump_predictions(cfg, out)
    if show_dir is not None:
        show_predictions(cfg, show_dir)
    if benchmark:
        add_hook(cfg, "cropr_mm.CroprBenchmarkHook", rounds=rounds)
    if audit:
        add_hook(cfg, "cropr_mm.PruneAuditHook")
    runner = build_test_runner(cfg)
    if progress is not None:
        force_share(runner, [progress])
    check_first_image(runner, "test")
    with running_errors():
        metrics = runner.test()
    file = Path(runner.work_dir, "test_metrics.json")
    if is_main_process():
        file.write_text(json.dumps(metrics, indent=2, default=as_plain) + "\n")
    folder = Path(runner.work_dir)
    files = {
        "metrics": file,
        "benchmark": folder / "benchmark.json" if benchmark else None,
        "audit": f"{folder / 'audit.json'}, {folder / 'audit.png'}" if audit else None,
        "predictions": out,
        "pictures": show_dir,
    }
    print_outputs(runner, "Tested", files)
    return metrics


def prepare_test(cfg: Config, checkpoint: str) -> None:
    """Check what can be known before a runner is built.

    Args:
        cfg: Config; the checkpoint is written into it.
        checkpoint: File or address.

    Raises:
        SetupError: If entries or the file are missing, the working folder cannot be written, or a
            GPU would stay unused.
    """
    check_device()
    require_entries(cfg, "test_dataloader", "test_cfg", "test_evaluator")
    cfg.load_from, cfg.resume = existing_checkpoint(checkpoint), False
    check_writable("--work-dir", cfg.work_dir, folder=True)


def build_test_runner(cfg: Config) -> ToolRunner:
    """Runner of a test, which takes checkpoints of exactly its model; SetupError as in checks."""
    runner = build_runner(cfg, ("test",), ToolRunner)
    _check_hooks(runner)
    runner.strict = True
    return runner


def _check_hooks(runner: ToolRunner) -> None:
    """What is to be found out in a test can be, which would otherwise fail at its end."""
    for hook in runner.hooks:
        if isinstance(hook, CroprBenchmarkHook | PruneAuditHook):
            with as_setup_error():
                hook.check(runner)


def as_plain(value: Any) -> Any:
    """Numbers of numpy and torch for JSON; anything else by its text."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    return str(value)
