# mmseg's own config with another backbone, which wants whole patches in images of any size.
_base_ = "mmseg::vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py"
model = dict(
    pretrained=None,
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="vit_base_patch16_224",
        img_size=512,
        drop_path_rate=0.1,
        out_indices=(2, 5, 8, 11),
    ),
)
