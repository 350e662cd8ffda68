"""The number of classes, said once in a model's config: in its heads."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import MODELS

from cropr_mm.registry import class_of

_HEADS = ("bbox_head", "mask_head", "decode_head", "auxiliary_head", "head")


def share_classes(model: dict[str, Any]) -> None:
    """Give the reducer the number of classes of the heads, if it takes one and has none.

    Args:
        model: Config of a model with ``backbone`` and the usual heads of mmdet, mmseg or
            mmpretrain; changed in place. The default scope is set.

    Raises:
        ValueError: If the heads have different numbers of classes.
    """
    reducer = (model.get("backbone") or {}).get("reducer")
    if not reducer or "num_classes" in reducer:
        return
    if "num_classes" not in inspect.signature(class_of(reducer, MODELS)).parameters:
        return
    heads = [*_heads(model), *_heads(model.get("roi_head") or {})]
    counts = sorted({head["num_classes"] for head in heads if "num_classes" in head})
    if len(counts) > 1:
        raise ValueError(
            f"expected heads of one number of classes, got {counts}: set "
            "backbone.reducer.num_classes"
        )
    if counts:
        reducer["num_classes"] = counts[0]


def _heads(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Configs of heads, or of each stage's head."""
    for name in _HEADS:
        head = model.get(name) or []
        yield from [head] if isinstance(head, Mapping) else head
