"""Multiply-adds and parameters of a whole model, counted on the meta device part by part.

Batch size 1, evaluation mode.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from cropr_mm.profiling.macs import MacCounter, Macs
from cropr_mm.profiling.meta import check_on_meta, count_parameters, meta_image

_DENSE_HEADS = ("rpn_head", "bbox_head", "mask_head", "decode_head", "head")
_TRAINING_ONLY = ("auxiliary_head",)


@dataclass(frozen=True)
class ModelCost:
    """Cost of a whole model at one image size.

    Attributes:
        parts: MACs by part, with what the figure stands for.
        not_counted: Parts without a figure, and why.
        params_trained: Parameters with the auxiliary parts that only training has.
        params_deployed: Parameters after ``switch_to_deploy`` of the encoder.
    """

    parts: dict[str, tuple[Macs, str]]
    not_counted: dict[str, str]
    params_trained: int
    params_deployed: int

    @property
    def macs(self) -> Macs:
        """Sum over ``parts``."""
        return sum((macs for macs, _ in self.parts.values()), Macs())

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        parts = {
            name: {**macs.as_dict(), "counted": text} for name, (macs, text) in self.parts.items()
        }
        return {
            **self.macs.as_dict(),
            "params_trained": self.params_trained,
            "params_deployed": self.params_deployed,
            "parts": parts,
            "not_counted": self.not_counted,
        }


def model_cost(model: nn.Module, img_size: tuple[int, int] | None = None) -> ModelCost:
    """Count a detector, segmenter or classifier as far as it runs on the meta device.

    Backbone, neck and dense heads are run. Heads on regions of interest get ``max_per_img``
    regions, the most that the test settings allow, as pooled features; RoIAlign, non-maximum
    suppression and other steps without layers count nothing. What cannot be run is named in the
    result.

    Args:
        model: Model with a ``backbone``, built on the meta device, in evaluation mode.
        img_size: Height and width in pixels. Default: the encoder's own.

    Raises:
        ValueError: If the model is not on the meta device or is in training mode.
    """
    check_on_meta(model)
    size = model.backbone.native_size if img_size is None else img_size
    counter = MacCounter()
    parts: dict[str, tuple[Macs, str]] = {}
    not_counted: dict[str, str] = {}

    def count(name: str, text: str, function: Callable[[], Any]) -> Any:
        before = counter.macs
        try:
            return function()
        except (
            Exception
        ) as error:  # a part that needs real numbers; its share is reported as missing
            first = str(error).splitlines()[0] if str(error) else ""
            not_counted[name] = f"does not run on the meta device: {type(error).__name__}: {first}"
            return None
        finally:
            if name not in not_counted:
                parts[name] = counter.macs - before, text

    with counter.running(model):
        features = count("backbone", "whole", lambda: model.backbone(meta_image(model, size)))
        if features is not None and getattr(model, "neck", None) is not None:
            features = count("neck", "whole", lambda: model.neck(features))
        unknown = _unknown_parts(model)
        for name in unknown:
            not_counted[name] = "a kind of part that this counter does not know"
        if features is None or unknown:
            not_counted["heads"] = "they need the output of a part that was not counted"
        else:
            for name, text, function in _heads(model, features):
                count(name, text, function)
    return ModelCost(parts, not_counted, *count_parameters(model))


def _heads(model: nn.Module, features: Any) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, description and call of each head that inference runs."""
    for name in _DENSE_HEADS:
        head = getattr(model, name, None)
        if head is not None:
            yield name, "whole", partial(head.forward, features)
    roi_head = getattr(model, "roi_head", None)
    if roi_head is None:
        return
    limits = {"bbox": model.test_cfg.rpn.max_per_img, "mask": model.test_cfg.rcnn.max_per_img}
    for kind, regions in limits.items():
        heads = _as_list(getattr(roi_head, f"{kind}_head", None))
        extractors = _as_list(getattr(roi_head, f"{kind}_roi_extractor", None))
        extractors = extractors or _as_list(roi_head.bbox_roi_extractor)
        for stage, head in enumerate(heads):
            extractor = extractors[min(stage, len(extractors) - 1)]
            side = extractor.roi_layers[0].output_size
            pooled = torch.empty(regions, extractor.out_channels, *side, device="meta")
            yield (
                f"roi_head.{kind}_head.{stage}",
                f"{regions} regions (the most that test_cfg allows) of {side[0]}x{side[1]} cells",
                partial(head, pooled),
            )


def _unknown_parts(model: nn.Module) -> list[str]:
    """Parts with parameters that no rule here covers, such as the encoder and decoder of DETR."""
    known = {"backbone", "neck", "roi_head", *_DENSE_HEADS, *_TRAINING_ONLY}
    return [
        name
        for name, child in model.named_children()
        if name not in known and next(child.parameters(), None) is not None
    ]


def _as_list(modules: nn.Module | None) -> list[nn.Module]:
    if modules is None:
        return []
    return list(modules) if isinstance(modules, nn.ModuleList) else [modules]
