"""Levels of a feature pyramid against the strides of the heads that read them."""

from typing import Any

from torch import nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.model import parts_at
from cropr_mm.necks.simple_fpn import SimpleFPN

_HEADS = ("rpn_head", "bbox_head")
_EXTRACTORS = ("roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor")


def check_levels(model: nn.Module) -> None:
    """Compare the maps of a ``SimpleFPN`` with the strides that mmdet's heads are told.

    Args:
        model: Built model; one without a ``SimpleFPN`` behind a ``CroprViT`` passes.

    Raises:
        SetupError: If a head has strides for another number of maps, or other strides; extractors
            of regions may leave out the last maps.
    """
    neck, backbone = getattr(model, "neck", None), getattr(model, "backbone", None)
    if not isinstance(neck, SimpleFPN) or not isinstance(backbone, CroprViT):
        return
    strides = [backbone.patch_size / scale for scale in neck.scale_factors]
    for _ in range(neck.num_subsampled):
        strides.append(strides[-1] * 2)
    for path in (*_HEADS, *_EXTRACTORS):
        for name, reader in parts_at(model, path):
            told = _strides(reader)
            expected = strides[: len(told)] if path in _EXTRACTORS else strides
            if told and told != expected:
                raise SetupError(
                    f"SimpleFPN has {len(strides)} maps (num_outs) of strides {_text(strides)} for "
                    f"a patch of {backbone.patch_size} pixels: expected as many in {name}, got "
                    f"strides {_text(told)}"
                )


def _strides(reader: Any) -> list[float]:
    """Strides that a head or an extractor of regions expects; empty if it does not say."""
    told = getattr(reader, "featmap_strides", None)
    if told is None:
        told = getattr(getattr(reader, "prior_generator", None), "strides", None) or ()
    return [float(stride[0] if isinstance(stride, tuple | list) else stride) for stride in told]


def _text(strides: list[float]) -> str:
    return ", ".join(f"{stride:g}" for stride in strides)
