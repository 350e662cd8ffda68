"""Find backbones that reduce tokens, in models and in configs, and their auxiliary modules."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.reducers import TokenReducer
from cropr_mm.registry import MODELS


def find_backbones(model: nn.Module) -> dict[str, ReducingBackbone]:
    """Every backbone inside a model that can reduce tokens, the model itself included.

    Args:
        model: Any module; wrappers of data parallelism may stand outside or inside.

    Returns:
        Module path in ``model`` (empty for the model itself) to backbone, in module order.
    """
    return {path: m for path, m in model.named_modules() if isinstance(m, ReducingBackbone)}


def backbone_class(entry: Any) -> type[ReducingBackbone] | None:
    """Class that a config entry names, if it is a backbone that reduces tokens.

    Args:
        entry: Any part of a config; its ``type`` may be a class or a name, with or without scope.
    """
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    return kind if isinstance(kind, type) and issubclass(kind, ReducingBackbone) else None


def backbone_entry(
    cfg: Mapping[str, Any], kind: type[ReducingBackbone] = ReducingBackbone
) -> Mapping[str, Any]:
    """Entry ``model.backbone`` of a config, which has to name a backbone of one grid.

    Args:
        cfg: A whole config.
        kind: Class that it has to be of, or of a subclass.

    Raises:
        ValueError: If there is no such entry.
    """
    model = cfg.get("model") or {}
    entry = model.get("backbone") or {}
    found = backbone_class(entry)
    if found is None or not issubclass(found, kind) or found.is_pyramid:
        got = entry.get("type") if isinstance(entry, Mapping) else entry
        raise ValueError(f"expected model.backbone of type cropr_mm.CroprViT, got {got}")
    return entry


def find_vits(model: nn.Module) -> dict[str, CroprViT]:
    """Those of :func:`find_backbones` that are a CroprViT."""
    return {path: m for path, m in find_backbones(model).items() if isinstance(m, CroprViT)}


def only_backbone(model: nn.Module) -> tuple[str, ReducingBackbone]:
    """Path and module of the one backbone of one grid, such as CroprViT, inside a model.

    Raises:
        ValueError: If there is none or more than one.
    """
    found = {path: b for path, b in find_backbones(model).items() if not b.is_pyramid}
    if len(found) != 1 or "" in found:
        raise ValueError(
            "expected a model with one backbone that reduces tokens, such as cropr_mm.CroprViT, "
            f"got {len(found)} {list(found)}"
        )
    return next(iter(found.items()))


def auxiliary_reducers(backbone: ReducingBackbone) -> dict[int, TokenReducer]:
    """Reducers of a backbone that train by an auxiliary loss of their own.

    These are the reducers with a child ``auxiliary``; whether other losses move their parameters
    too, their attribute ``stop_gradient`` says.

    Args:
        backbone: The backbone; in deploy mode it has no such reducer.

    Returns:
        Block (0-based) to reducer, ascending.
    """
    found = {
        int(block): reducer
        for block, reducer in backbone.reducers.items()
        if "auxiliary" in dict(reducer.named_children())
    }
    return dict(sorted(found.items()))
