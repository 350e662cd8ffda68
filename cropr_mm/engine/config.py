"""Read a config for a tool and prepare the process for it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from cropr_mm.checkpoints import register_safe_loader
from cropr_mm.classes import share_classes
from cropr_mm.engine.config_file import read_config
from cropr_mm.engine.console import ignore_noise, import_quietly
from cropr_mm.engine.errors import building_errors, message_of
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.entries import check_scope, warn_of_unknown_entries

HOST_SCOPES = ("mmdet", "mmseg", "mmpretrain")


def load_config(
    path: str,
    work_dir: str | None = None,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Read a config for a tool and prepare the process for it.

    The reducer gets the number of classes of the heads where its entry has none.

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
        raise SetupError(f"expected a config file, found none at {path}{_elsewhere(path)}")
    register_safe_loader()
    cfg = read_config(path)
    _replace_entries(cfg, options or {})
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(path).stem))
    scope = cfg.get("default_scope")
    if scope in HOST_SCOPES:
        try:
            import_quietly(f"{scope}.models")
        except ImportError as error:
            raise SetupError(
                f"{path} has default_scope={scope!r}, but {scope} cannot be imported: {error}"
            ) from error
    elif scope is not None:
        check_scope(scope, path)
    init_default_scope(scope or "mmengine")
    warn_of_unknown_entries(cfg)
    if cfg.get("model") is not None:
        if not isinstance(cfg.model, dict):
            raise SetupError(f"{path}: expected model=dict(...), got {cfg.model!r}")
        with building_errors():
            share_classes(cfg.model)
    return cfg


def _replace_entries(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge options into a config, whose lists they may index."""
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, AssertionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        raise SetupError(f"options {given} do not fit the config: {message_of(error)}") from error
    hooks = cfg.get("custom_hooks") or []
    if not isinstance(hooks, list):  # as after an index into none
        raise SetupError(f"expected custom_hooks=[dict(type=...), ...], got {hooks}")


def _elsewhere(path: str) -> str:
    """Where files of this name are among the configs that a path is in, for a message."""
    file = Path(path)
    if not file.name:
        return ""
    folders = [folder for folder in file.parents if folder.name == "configs"]
    folder = folders[0] if folders else file.parent if file.parent.name else Path("configs")
    found = sorted(str(other) for other in folder.rglob(file.name))
    return f"; there is {' and '.join(found[:3])}" if found else ""


def require_entries(cfg: Config, *keys: str) -> None:
    """Check that a config has a model and these entries.

    Raises:
        SetupError: If one is missing or None.
    """
    missing = [key for key in ("model", *keys) if cfg.get(key) is None]
    if missing:
        raise SetupError(f"{cfg.filename}: expected entries {', '.join(missing)}, got none")
