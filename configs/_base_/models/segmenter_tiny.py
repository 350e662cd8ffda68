# Segmenter with the linear decoder that trains from scratch on a CPU; a leaf gives sizes.
_base_ = "./segmenter_linear.py"
model = dict(
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch=dict(embed_dim=128, depth=8, num_heads=4, cls_token=False, rope="eva"),
        img_size=128,
        patch_size=8,
    ),
    # From scratch the encoder learns through this head from the first step on.
    decode_head=dict(in_channels=128, channels=128, init_cfg=dict(std=0.02)),
)
