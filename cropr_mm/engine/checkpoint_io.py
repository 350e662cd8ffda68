"""Checkpoints as the tools read them: existing files, tensors by name, resampled queries."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.grid import stored_query_grid
from cropr_mm.checkpoints.queries import fit_queries
from cropr_mm.engine.preflight import SetupError


def existing_checkpoint(checkpoint: str) -> str:
    """The path or address of a checkpoint, once a local path is known to exist.

    Raises:
        SetupError: If there is no such file.
    """
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


def resample_queries(
    weights: dict[str, torch.Tensor], backbone: nn.Module, path: str, checkpoint: Mapping[str, Any]
) -> None:
    """Resample queries in place where their grid differs; other numbers may differ, as heads."""
    prefix = f"{path}." if path else ""
    own = {name[len(prefix) :]: v for name, v in weights.items() if name.startswith(prefix)}
    with suppress(CheckpointError):
        fitted = fit_queries(own, backbone, stored_query_grid(checkpoint, path))
        weights.update({prefix + name: value for name, value in fitted.items()})
