# A small PS-ViT: 6 x 8 points move twice over a map of convolutions, then six blocks.
_base_ = "./unpruned_tiny_cvt_trashnet.py"
arch = dict(
    embed_dim=96,
    depth=6,
    num_heads=4,
    attn_bias="none",
    norm_eps=1e-5,
    pos_embed=False,
    conv_stem=16,
    sampling_steps=3,
)
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch=arch,
        img_size=(96, 128),
        out_type="cls_token",
    )
)
