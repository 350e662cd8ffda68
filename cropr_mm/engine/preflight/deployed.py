"""A deployed checkpoint belongs to the schedule that it was deployed with."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.engine.preflight.errors import SetupError

PLANS = "cropr_plans"


def plans_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What the encoders of a model keep of their native grids, for the meta data of a file.

    Args:
        model: Model; the progress in force counts.

    Returns:
        By the path of each encoder: 'grid' [rows, columns] and 'num_keep' {block: patch tokens}.
    """
    return {
        path: dict(grid=list(backbone.grid), num_keep=dict(backbone.num_keep()))
        for path, backbone in find_backbones(model).items()
    }


def check_plans_of(model: nn.Module, meta: Mapping[str, Any], label: str) -> None:
    """Compare what a model keeps with what a deployed checkpoint was deployed for.

    Files of trainings, and those deployed before 0.3, say nothing of it and pass.

    Args:
        model: Model; the progress in force counts.
        meta: Meta data of the checkpoint.
        label: What to call it in messages.

    Raises:
        SetupError: If they differ.
    """
    backbones = find_backbones(model)
    for path, stored in (meta.get(PLANS) or {}).items():
        if path not in backbones:
            continue
        wanted = {int(block): int(count) for block, count in stored["num_keep"].items()}
        grid = (int(stored["grid"][0]), int(stored["grid"][1]))
        try:
            own = dict(backbones[path].num_keep(grid))
        except ValueError as error:
            raise SetupError(f"{_message(label, path, wanted, grid)}, whose {error}") from error
        if own != wanted:
            raise SetupError(f"{_message(label, path, wanted, grid)}, which keeps {own}")


def _message(label: str, path: str, wanted: Mapping[int, int], grid: tuple[int, int]) -> str:
    return (
        f"{label} was deployed with a schedule that keeps {dict(wanted)} of {grid[0]}x{grid[1]} "
        f"patch tokens in {path or 'the model'} (after block: tokens; the config in its meta data "
        "has it, and --progress takes a share of a config's); expected it in this config"
    )
