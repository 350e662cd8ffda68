"""Faults of CvT and PS-ViT: methods, heads and weights that do not go with them."""

from pathlib import Path
from typing import Any

import torch
from row import Row
from tiny import train_tiny, training
from tiny_tasks import BACKBONE

from cropr_mm import CroprViT

CVT: dict[str, Any] = dict(
    _delete_=True,
    type="cropr_mm.CroprCvT",
    arch=dict(embed_dims=(8, 8, 16), depths=(1, 1, 3), num_heads=(1, 1, 2)),
    img_size=64,
    out_type="cls_token",
)
PS_VIT: dict[str, Any] = dict(
    _delete_=True,
    type="cropr_mm.CroprViT",
    arch=dict(BACKBONE["arch"], pos_embed=False, conv_stem=8, sampling_steps=2),
    out_type="cls_token",
)


def _reducing(encoder: dict[str, Any], method: str) -> dict[str, Any]:
    schedule = dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[0])
    return dict(encoder, reducer=dict(type=f"cropr_mm.{method}"), schedule=schedule)


def _weights_of_a_model(folder: Path) -> None:
    """Start from a file whose encoder, a ViT, has a prefix that init_cfg does not name."""
    weights = CroprViT(BACKBONE["arch"]).state_dict()
    file = str(folder / "model.pth")
    torch.save({f"backbone.{name}": value for name, value in weights.items()}, file)
    init_cfg = dict(type="Pretrained", checkpoint=file)
    train_tiny(folder, "cls", model__backbone=dict(PS_VIT, init_cfg=init_cfg))


ENCODERS = "CvT and PS-ViT"
ROWS = [
    Row(name, ENCODERS, fault, says, run)
    for name, fault, says, run in (
        (
            "cvt-merger",
            "a method that merges tokens in CvT",
            "ToMe makes tokens of no cell: expected for CroprCvT a reducer",
            training(model__backbone=_reducing(CVT, "ToMe")),
        ),
        (
            "cvt-map",
            "a map of CvT for a classifier",
            "LinearClsHead expects one vector per image, .* out_type='featmap'",
            training(model__backbone=dict(CVT, out_type="featmap")),
        ),
        (
            "psvit-cells",
            "a method that looks at cells in PS-ViT",
            "VariancePruner looks at the cells of tokens, which progressive sampling moved",
            training(model__backbone=_reducing(PS_VIT, "VariancePruner")),
        ),
        (
            "psvit-weights",
            "weights of a ViT for PS-ViT",
            r"model\.pth does not fit the backbone",
            _weights_of_a_model,
        ),
    )
]
