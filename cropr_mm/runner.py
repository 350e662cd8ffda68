"""What the command-line tools share: config, checks, training and testing with any host library."""

import atexit
import gc
import json
import logging
import os
import re
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint, load_state_dict
from torch import nn

import cropr_mm.compat  # noqa: F401 - lets configs inherit from mmseg on both lines
from cropr_mm.backbones.lookup import auxiliary_reducers, find_backbones
from cropr_mm.checkpoints import register_safe_loader
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.grid import stored_query_grid
from cropr_mm.checkpoints.queries import fit_queries
from cropr_mm.console import (
    ignore_noise,
    import_quietly,
    input_errors,
    is_for_console,
    print_files,
    short_errors,
)
from cropr_mm.hooks.aux_loss import CroprAuxLossHook
from cropr_mm.hooks.benchmark import CroprBenchmarkHook
from cropr_mm.hooks.curriculum import CroprCurriculumHook
from cropr_mm.hooks.prune_audit import PruneAuditHook
from cropr_mm.options import (
    add_hook,
    check_precision,
    disable_amp,
    draw_predictions,
    dump_predictions,
    enable_amp,
)
from cropr_mm.preflight import (
    SetupError,
    check_channels,
    check_classes,
    check_data,
    check_encoder,
    check_evaluator,
    check_label_maps,
    check_labels,
    check_length,
    check_masks,
    check_model,
    check_model_config,
    loading,
)

__all__ = ["ToolRunner", "evaluate", "load_config", "short_errors", "train"]

_HOST_SCOPES = ("mmdet", "mmseg", "mmpretrain")


class ToolRunner(Runner):
    """Runner that keeps its console short and takes fitting checkpoints only.

    Environment, config and lists of settings go to the log file alone. Checkpoints that are tested
    or resumed must have every parameter of the model and no other; those that training starts from
    must have those of the encoder.
    """

    strict = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(is_for_console)
        return logger

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = "cpu",
        strict: bool = False,
        revise_keys: list = [(r"^module.", "")],  # noqa: B006 - the signature of the base class
    ) -> dict:
        """Load a checkpoint completely, or for fine-tuning with other heads at most.

        Raises:
            SetupError: If its names or shapes do not fit, see :func:`check_encoder`.
            CheckpointError: If the file is damaged or holds code.
        """
        strict = strict or self.strict
        checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = _unwrapped(self)
        weights = named_tensors(checkpoint, revise_keys)
        if strict:
            check_model(model, weights, filename)
        else:
            for path, backbone in find_backbones(model).items():
                _fit_queries(weights, backbone, path, checkpoint)
            check_encoder(model, weights, filename, checkpoint)
        load_state_dict(model, weights, strict, logger="silent")  # differences are checked above
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


def load_config(
    path: str,
    work_dir: str | None = None,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Read a config for a tool and prepare the process for it.

    Args:
        path: Config file of mmdet, mmseg or mmpretrain; ``default_scope`` in it says of which.
        work_dir: Folder for all output. Default: the config's, or ``work_dirs/<config name>``.
        launcher: How processes were started: 'none', 'pytorch', 'slurm' or 'mpi'.
        options: Values that replace entries of the config, by dotted key.

    Raises:
        SetupError: If there is no such file or it cannot be read, or its host library or one of its
            ``custom_imports`` is missing.
    """
    ignore_noise()
    if not os.path.isfile(path):
        raise SetupError(f"expected a config file, found none at {path}")
    register_safe_loader()
    cfg = _read(path)
    cfg.merge_from_dict(dict(options or {}))
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(path).stem))
    scope = cfg.get("default_scope")
    if scope in _HOST_SCOPES:
        try:
            import_quietly(f"{scope}.models")
        except ImportError as error:
            raise SetupError(
                f"{path} has default_scope={scope!r}, but {scope} cannot be imported: {error}"
            ) from error
    init_default_scope(scope or "mmengine")
    return cfg


def _read(path: str) -> Config:
    """The config of a file, once its ``custom_imports`` are imported."""
    try:
        return Config.fromfile(path)
    except ImportError as error:
        if "custom modules" not in str(error):
            raise
        # mmengine wraps what happened twice and lists every folder of sys.path.
        cause: BaseException = error
        while isinstance(deeper := cause.__cause__ or cause.__context__, ImportError):
            cause = deeper
        raise SetupError(
            f"{path}: {cause}; modules named in custom_imports are looked for in the folders of "
            "PYTHONPATH"
        ) from error


def train(cfg: Config, resume: str | None = None, amp: bool | None = None) -> None:
    """Check, then train.

    Args:
        cfg: Config from :func:`load_config`; changed in place.
        resume: Checkpoint to go on from, or 'auto' for the latest in the working folder.
        amp: Whether to train with automatic mixed precision; None leaves that to the config.

    Raises:
        SetupError: If config or data do not fit, before the first iteration.
    """
    _need(cfg, "train_dataloader", "train_cfg", "optim_wrapper")
    if amp is not None:
        (enable_amp if amp else disable_amp)(cfg)
    if resume == "auto":
        resume = find_latest_checkpoint(cfg.work_dir)
        if resume is None:
            print(f"Nothing to resume in {cfg.work_dir}: starting anew.")
    if resume is not None:
        cfg.load_from, cfg.resume = _existing(resume), True
    if cfg.get("load_from"):
        _existing(cfg.load_from)
    runner = _build(cfg, ("train", "val"))
    runner.strict = bool(cfg.get("resume"))
    _check_auxiliary(runner)
    _check_curriculum(runner)
    check_masks(_unwrapped(runner), cfg)
    check_precision(cfg)
    with input_errors():
        runner.train()
    _print_files(runner, "Trained", {"last checkpoint": find_latest_checkpoint(runner.work_dir)})


def evaluate(
    cfg: Config,
    checkpoint: str,
    out: str | None = None,
    show_dir: str | None = None,
    benchmark: bool = False,
    rounds: int = 20,
    audit: bool = False,
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

    Returns:
        Metrics by name, also written to ``test_metrics.json`` in the working folder.

    Raises:
        SetupError: If config, data or checkpoint do not fit.
    """
    _need(cfg, "test_dataloader", "test_cfg", "test_evaluator")
    cfg.load_from, cfg.resume = _existing(checkpoint), False
    if out is not None:
        dump_predictions(cfg, out)
    if show_dir is not None:
        draw_predictions(cfg, show_dir)
    if benchmark:
        add_hook(cfg, "cropr_mm.CroprBenchmarkHook", rounds=rounds)
    if audit:
        add_hook(cfg, "cropr_mm.PruneAuditHook")
    runner = _build(cfg, ("test",))
    _check_hooks(runner)
    runner.strict = True
    with input_errors():
        metrics = runner.test()
    file = Path(runner.work_dir, "test_metrics.json")
    if is_main_process():
        file.write_text(json.dumps(metrics, indent=2, default=_plain) + "\n")
    folder = Path(runner.work_dir)
    files = {
        "metrics": file,
        "benchmark": folder / "benchmark.json" if benchmark else None,
        "audit": f"{folder / 'audit.json'}, {folder / 'audit.png'}" if audit else None,
        "predictions": out,
        "pictures": show_dir,
    }
    _print_files(runner, "Tested", files)
    return metrics


def _build(cfg: Config, splits: tuple[str, ...]) -> ToolRunner:
    """Runner with its loops built and all checks passed."""
    if cfg.get("default_scope") in _HOST_SCOPES:
        import_quietly(f"{cfg.default_scope}.datasets")
    check_model_config(cfg.model)
    check_data(cfg, splits)
    _join_processes_on_cpu(cfg)
    try:
        runner = ToolRunner.from_cfg(cfg)
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        text = str(text) or f"the condition '{place.line}' does not hold"
        raise SetupError(f"{text} (raised in {place.filename}:{place.lineno})") from error
    check_channels(_unwrapped(runner))
    for split in splits:
        with loading(cfg, split):
            loop = getattr(runner, f"{split}_loop")
        if loop is not None:
            check_length(loop.dataloader.dataset, cfg, split)
            check_classes(runner.model, loop.dataloader.dataset, f"{split}_dataloader")
            check_labels(loop.dataloader.dataset, f"{split}_dataloader")
            check_label_maps(loop.dataloader.dataset, f"{split}_dataloader")
            if split != "train":
                check_evaluator(loop.evaluator, loop.dataloader.dataset, f"{split}_evaluator")
    return runner


def _join_processes_on_cpu(cfg: Config) -> None:
    """Let several processes run without an accelerator, where mmengine insists on CUDA devices."""
    if cfg.launcher != "pytorch" or get_device() != "cpu" or is_distributed():
        return
    torch.distributed.init_process_group("gloo")
    atexit.register(_leave_processes)
    wrapper = cfg.get("model_wrapper_cfg") or dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    cfg.model_wrapper_cfg = {**wrapper, "device_ids": None}


def _leave_processes() -> None:
    """End the threads of the process group, which else may outlive the interpreter and abort."""
    gc.collect()  # wrapped models hold the group too
    torch.distributed.destroy_process_group()


def _check_hooks(runner: ToolRunner) -> None:
    """What is to be found out in a test can be, which would otherwise fail at its end."""
    for hook in runner.hooks:
        if isinstance(hook, CroprBenchmarkHook | PruneAuditHook):
            try:
                hook.check(runner)
            except ValueError as error:
                raise SetupError(str(error)) from error


def _check_auxiliary(runner: ToolRunner) -> None:
    """Reducers with losses of their own have a hook for them that fits model and data."""
    model = _unwrapped(runner)
    hooks = [hook for hook in runner.hooks if isinstance(hook, CroprAuxLossHook)]
    untaught = {
        type(reducer).__name__
        for backbone in find_backbones(model).values()
        for reducer in auxiliary_reducers(backbone).values()
    }
    if not hooks and untaught:
        raise SetupError(
            f"the model has {', '.join(sorted(untaught))} modules that nothing trains; expected in "
            "custom_hooks a dict(type='cropr_mm.CroprAuxLossHook', target=...)"
        )
    for hook in hooks:
        try:
            hook.check(model, runner.train_dataloader.dataset)
        except ValueError as error:
            raise SetupError(str(error)) from error


def _check_curriculum(runner: ToolRunner) -> None:
    """A curriculum has encoders that can reduce less than their schedules say."""
    for hook in runner.hooks:
        if isinstance(hook, CroprCurriculumHook):
            try:
                hook.check(_unwrapped(runner))
            except ValueError as error:
                raise SetupError(str(error)) from error


def _unwrapped(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _need(cfg: Config, *keys: str) -> None:
    missing = [key for key in ("model", *keys) if cfg.get(key) is None]
    if missing:
        raise SetupError(f"{cfg.filename}: expected entries {', '.join(missing)}, got none")


def _existing(checkpoint: str) -> str:
    if "://" not in checkpoint and not os.path.isfile(checkpoint):
        raise SetupError(f"expected a checkpoint file, found none at {checkpoint}")
    return checkpoint


def named_tensors(
    checkpoint: Mapping[str, Any], renames: Iterable[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    """Weights of a checkpoint, their names changed by (pattern, replacement) in turn."""
    content = checkpoint.get("state_dict", checkpoint)
    weights: OrderedDict[str, torch.Tensor] = OrderedDict()
    # Versions of layers, where torch looks for them.
    weights._metadata = getattr(content, "_metadata", None)  # type: ignore[attr-defined]
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            for pattern, replacement in renames:
                name = re.sub(pattern, replacement, name)
            weights[name] = value
    return weights


def _fit_queries(
    weights: dict[str, torch.Tensor], backbone: nn.Module, path: str, checkpoint: Mapping[str, Any]
) -> None:
    """Resample queries in place where their grid differs; other numbers may differ, as heads."""
    prefix = f"{path}." if path else ""
    own = {name[len(prefix) :]: v for name, v in weights.items() if name.startswith(prefix)}
    with suppress(CheckpointError):
        fitted = fit_queries(own, backbone, stored_query_grid(checkpoint, path))
        weights.update({prefix + name: value for name, value in fitted.items()})


def _print_files(runner: ToolRunner, done: str, files: Mapping[str, object]) -> None:
    if is_main_process():
        log = f"{runner.log_dir}/{runner.timestamp}.log"
        print_files(done, {"work dir": runner.work_dir, **files, "log": log})


def _plain(value: Any) -> Any:
    """Numbers of numpy and torch for JSON; anything else by its text."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    return str(value)
