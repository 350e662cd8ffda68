"""Weights of classes in losses: one for each."""

from typing import Any

from torch import nn

from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.model import parts_at

_HEADS = (
    "head",
    "decode_head",
    "auxiliary_head",
    "panoptic_head",
    "bbox_head",
    "roi_head.bbox_head",
)


def check_class_weights(model: nn.Module) -> None:
    """Compare the length of each ``class_weight`` with the classes that its head tells apart.

    Args:
        model: Built model; heads at the usual places are looked at.

    Raises:
        SetupError: If they differ.
    """
    for name, head in (part for path in _HEADS for part in parts_at(model, path)):
        expected = _num_outputs(head)
        for loss in head.modules():
            weights: Any = getattr(loss, "class_weight", None)
            if not hasattr(weights, "__len__") or not expected or len(weights) in expected:
                continue
            raise SetupError(
                f"{type(loss).__name__} of {name}: expected class_weight with one number for each "
                f"of {max(expected)} classes, got {len(weights)}"
            )


def _num_outputs(head: nn.Module) -> set[int]:
    """Numbers of classes that a head may mean, the background of a softmax among them."""
    layer = getattr(head, "fc_cls", None)
    outputs = getattr(layer, "out_features", None) or getattr(head, "cls_out_channels", None)
    if isinstance(outputs, int):
        return {outputs}
    if isinstance(getattr(head, "num_queries", None), int):  # a class of no object besides
        return {head.num_classes + 1}
    numbers = (getattr(head, "num_classes", None), getattr(head, "out_channels", None))
    return {number for number in numbers if isinstance(number, int) and number > 0}
