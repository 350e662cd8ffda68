"""Find Cropr backbones and their auxiliary modules inside any model."""

from torch import nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.reducers import TokenReducer


def find_backbones(model: nn.Module) -> dict[str, ReducingBackbone]:
    """Every backbone inside a model that can reduce tokens, the model itself included.

    Args:
        model: Any module; wrappers of data parallelism may stand outside or inside.

    Returns:
        Module path in ``model`` (empty for the model itself) to backbone, in module order.
    """
    return {path: m for path, m in model.named_modules() if isinstance(m, ReducingBackbone)}


def find_vits(model: nn.Module) -> dict[str, CroprViT]:
    """Those of :func:`find_backbones` that are a CroprViT."""
    return {path: m for path, m in find_backbones(model).items() if isinstance(m, CroprViT)}


def only_backbone(model: nn.Module) -> tuple[str, CroprViT]:
    """Path and module of the one CroprViT inside a model.

    Raises:
        ValueError: If there is none or more than one.
    """
    found = find_vits(model)
    if len(found) != 1 or "" in found:
        raise ValueError(
            f"expected a model with one CroprViT inside, got {len(found)} {list(found)}"
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
