"""Checkpoints as the tools read them: existing files, resampled queries."""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.final_norm import leave_token_norm
from cropr_mm.checkpoints.grid import stored_query_grid
from cropr_mm.checkpoints.queries import fit_queries
from cropr_mm.engine.preflight import SetupError


def existing_checkpoint(checkpoint: str) -> str:
    """The path or address of a checkpoint, once a local path is known to exist.

    Raises:
        SetupError: If there is no such file.
    """
    if "://" not in checkpoint and not os.path.isfile(checkpoint):
        found = "got the folder" if os.path.isdir(checkpoint) else "found none at"
        raise SetupError(f"expected a checkpoint file, {found} {checkpoint}")
    return checkpoint


def drop_token_norm(
    weights: dict[str, torch.Tensor], backbone: nn.Module, path: str, checkpoint: Mapping[str, Any]
) -> None:
    """Remove a final norm of tokens in place where a backbone norms the mean of its tokens."""
    prefix = _prefix(path)
    for name in leave_token_norm(_under(prefix, weights), backbone, checkpoint, path):
        del weights[prefix + name]


def resample_queries(
    weights: dict[str, torch.Tensor], backbone: nn.Module, path: str, checkpoint: Mapping[str, Any]
) -> None:
    """Resample queries in place where their grid differs; other numbers may differ, as heads."""
    prefix = _prefix(path)
    own = _under(prefix, weights)
    with suppress(CheckpointError):
        fitted = fit_queries(own, backbone, stored_query_grid(checkpoint, path))
        weights.update({prefix + name: value for name, value in fitted.items()})


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _under(prefix: str, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights whose names start with a prefix, without it."""
    return {name[len(prefix) :]: v for name, v in weights.items() if name.startswith(prefix)}
