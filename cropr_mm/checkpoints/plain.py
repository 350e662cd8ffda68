"""Files of plain Vision Transformers: MAE encoders and the detectors of ViTDet."""

from cropr_mm.checkpoints.detectron2 import DETECTOR, ENCODER
from cropr_mm.checkpoints.rename import Rule, Source, moved

_WEIGHT = r"(weight|bias)"

# timm's names, which are ours.
_VIT: tuple[Rule, ...] = (
    (r"(pos_embed|patch_embed\.proj\.(?:weight|bias))", r"\1"),
    (
        rf"(blocks\.\d+\.(?:norm[12]|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2))\.{_WEIGHT}",
        r"\1.\2",
    ),
)

# Source: mae, models_mae.py (pre-trained, with or without decoder) and models_vit.py (fine-tuned).
MAE = Source(
    files="a masked autoencoder or its fine-tuned encoder (facebookresearch/mae)",
    mark=r"blocks\.0\.attn\.qkv\.bias",
    rules=moved(
        (
            *_VIT,
            (r"cls_token", "cls_token"),
            (rf"(?:fc_)?norm\.{_WEIGHT}", r"norm.\1"),
            (rf"mask_token|head\.{_WEIGHT}|decoder_.+", None),
        ),
        "",
        "backbone.",
    ),
    detector=False,
)

# Source: detectron2, modeling/backbone/vit.py and projects/ViTDet/configs.
VITDET = Source(
    files="a ViTDet detector (detectron2, projects/ViTDet)",
    mark=r"backbone\.net\.blocks\.0\.mlp\.fc1\.weight",
    rules=(
        *moved((*_VIT, (r"(blocks\.\d+\.attn\.rel_pos_[hw])", r"\1")), ENCODER, "backbone."),
        *DETECTOR,
    ),
    detector=True,
)
