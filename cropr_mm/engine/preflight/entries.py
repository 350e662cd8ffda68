"""Checks of entries that mmengine takes as they are: names that nothing reads, bad numbers."""

import difflib
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.registry import MODELS, OPTIMIZERS

from cropr_mm.engine.preflight.errors import SetupError

# What mmengine's runner and the tools read at the top of a config.
_ENTRIES = (
    "auto_scale_lr",
    "backend_args",
    "custom_hooks",
    "custom_imports",
    "data_preprocessor",
    "default_hooks",
    "default_scope",
    "env_cfg",
    "experiment_name",
    "launcher",
    "load_from",
    "log_level",
    "log_processor",
    "model",
    "optim_wrapper",
    "param_scheduler",
    "randomness",
    "resume",
    "strategy",
    "test_cfg",
    "test_dataloader",
    "test_evaluator",
    "train_cfg",
    "train_dataloader",
    "tta_model",
    "tta_pipeline",
    "val_cfg",
    "val_dataloader",
    "val_evaluator",
    "visualizer",
    "work_dir",
)
# Of mmcv 1, in --cfg-options from memory too; a variable of a config may be called optimizer.
_OLD_ENTRIES = {
    "checkpoint_config": "default_hooks.checkpoint",
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "evaluation": "val_evaluator and train_cfg.val_interval",
    "log_config": "default_hooks.logger",
    "lr_config": "param_scheduler",
    "optimizer": "optim_wrapper.optimizer",
    "optimizer_config": "optim_wrapper",
    "runner": "train_cfg",
    "total_epochs": "train_cfg.max_epochs",
}
# Variables of configs have names like test_pipeline and oi_backend_args.
_NEAR = [name for name in _ENTRIES if name not in ("tta_pipeline", "backend_args")]
_SIMILAR = 0.885  # val_evaluator_abs, a variable, is less like any of them


def warn_of_unknown_entries(cfg: Mapping[str, Any]) -> None:
    """Warn of names at the top of a config that are nearly those of entries, or of mmcv 1.

    Other names are variables that a config uses itself, and pass.
    """
    for name, value in cfg.items():
        if name in _ENTRIES:
            continue
        if name in _OLD_ENTRIES and not (name == "optimizer" and "type" in value):
            warnings.warn(
                f"nothing reads {name} in the config, an entry of mmcv 1; its place is now "
                f"{_OLD_ENTRIES[name]}",
                stacklevel=2,
            )
            continue
        for near in difflib.get_close_matches(name, _NEAR, 1, _SIMILAR):
            warnings.warn(
                f"nothing reads {name} in the config; is it meant to be {near}?",
                stacklevel=2,
            )


def check_scope(scope: str, path: str) -> None:
    """Raise SetupError where ``default_scope`` is no library and no registry."""
    if scope not in MODELS.children and importlib.util.find_spec(scope) is None:
        raise SetupError(f"{path}: expected default_scope of an installed library, got {scope!r}")


def check_loops(cfg: Mapping[str, Any], splits: Iterable[str]) -> None:
    """Numbers of images, workers and iterations are such that loops can run.

    Args:
        cfg: Config.
        splits: Loops that will run, of 'train', 'val' and 'test'.

    Raises:
        SetupError: If one is not a whole number or too small, or epochs would never end.
    """
    for split in splits:
        loader = f"{split}_dataloader"
        _check_whole(cfg, (loader, "batch_size"), 1)
        _check_whole(cfg, (loader, "num_workers"), 0)
    if "train" in splits:
        for name in ("max_epochs", "max_iters", "val_interval"):
            _check_whole(cfg, ("train_cfg", name), 1)
        _check_whole(cfg, ("optim_wrapper", "accumulative_counts"), 1)
        _check_ends(cfg)


def _check_ends(cfg: Mapping[str, Any]) -> None:
    """Raise SetupError where epochs would be counted on a sampler without an end."""
    loop, sampler = cfg["train_cfg"], cfg["train_dataloader"].get("sampler") or {}
    by_epoch = "EpochBased" in str(loop.get("type")) or loop.get("by_epoch", False)
    kind = str(sampler.get("type"))
    if by_epoch and "Infinite" in kind:
        raise SetupError(
            f"train_dataloader.sampler={kind} never ends, and so would the first epoch: expected "
            "DefaultSampler, or train_cfg of IterBasedTrainLoop"
        )


def warn_of_idle_schedules(cfg: Mapping[str, Any]) -> None:
    """Warn of schedules and checkpoints whose time does not come in a loop of iterations.

    They count epochs, of which there are none, or a warm-up is longer than the training.
    """
    if "IterBased" not in str(cfg["train_cfg"].get("type")):
        return
    saving = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if saving.get("by_epoch", True) and saving.get("interval", -1) > 0:
        warnings.warn(
            "default_hooks.checkpoint counts epochs, but the training counts iterations and never "
            "ends one: no checkpoint is written before the end; set by_epoch=False",
            stacklevel=2,
        )
    length = cfg["train_cfg"].get("max_iters")
    schedules = cfg.get("param_scheduler") or []
    for entry in [schedules] if isinstance(schedules, Mapping) else schedules:
        if entry.get("by_epoch", True) and not entry.get("convert_to_iter_based"):
            warnings.warn(
                f"param_scheduler {entry.get('type')} counts epochs, but the training counts "
                "iterations and never ends one: set by_epoch=False",
                stacklevel=2,
            )
        elif str(entry.get("type")).endswith("LinearLR") and entry.get("end", 0) > (length or 0):
            warnings.warn(
                f"param_scheduler {entry['type']} ends at iteration {entry['end']}, after the "
                f"training, which has {length}: the rate does not get to where it leads",
                stacklevel=2,
            )


def check_optimizer(optim_wrapper: Mapping[str, Any]) -> None:
    """Check what an optimizer would only meet deep in its own code.

    Args:
        optim_wrapper: That entry of a config; the default scope is set.

    Raises:
        SetupError: If there is no optimizer, no class of its name, or its rate is no number.
    """
    optimizer = optim_wrapper.get("optimizer")
    if optimizer is None and "constructor" not in optim_wrapper:
        raise SetupError("optim_wrapper: expected optimizer=dict(type=..., lr=...), got none")
    if not isinstance(optimizer, Mapping):
        return
    kind, rate = optimizer.get("type"), optimizer.get("lr", 0.0)
    if isinstance(kind, str):
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            if registry.get(kind) is None:
                raise SetupError(f"optim_wrapper.optimizer: no optimizer is called {kind!r}")
    if not isinstance(rate, int | float):
        raise SetupError(f"optim_wrapper.optimizer.lr: expected a number, got {rate!r}")


def _check_whole(cfg: Mapping[str, Any], keys: tuple[str, ...], least: int) -> None:
    """Raise SetupError unless a value, where it is given, is a whole number and large enough."""
    value: Any = cfg
    for key in keys:
        value = value.get(key) if hasattr(value, "get") else None
    if value is not None and (not isinstance(value, int) or value < least):
        raise SetupError(f"{'.'.join(keys)}: expected a whole number >= {least}, got {value!r}")
