# mmseg's own config with another backbone.
_base_ = "mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py"
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="vit_small_patch16_384",
        img_size=512,
        drop_path_rate=0.1,
    ),
)
