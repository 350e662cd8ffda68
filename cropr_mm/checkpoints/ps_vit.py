"""Files of PS-ViT, brought to our names; timm has no such model."""

from cropr_mm.checkpoints.rename import Source

# Source: yuexy/PS-ViT, models/ps_vit.py. Steps share one position layer, which files repeat.
PS_VIT = Source(
    files="a PS-ViT of yuexy/PS-ViT",
    mark=r"ps_layers\.0\.transformer_layer\.norm1\.weight",
    rules=(
        (r"(stem|pos_layer)\.(.+)", r"patch_embed.\1.\2"),
        (r"ps_layers\.(\d+)\.transformer_layer\.(.+)", r"patch_embed.layers.\1.block.\2"),
        (r"ps_layers\.(\d+)\.offset_layer\.(.+)", r"patch_embed.layers.\1.offset_layer.\2"),
        (r"ps_layers\.\d+\.position_layer\..+", None),
        (r"trans_layers\.(\d+)\.(.+)", r"blocks.\1.\2"),
        (r"(cls_token|norm\.(?:weight|bias))", r"\1"),
        (r"point_coord|head\..+", None),
    ),
    detector=False,
)
