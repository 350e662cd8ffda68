# mmdet's own config with another backbone and neck, and a ViT's optimizer.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="eva02_small_patch14_224",
        img_size=1024,
        patch_size=16,
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="cropr_mm.SimpleFPN", in_channels=384, out_channels=256),
)
optim_wrapper = dict(
    _delete_=True,
    type="cropr_mm.CroprOptimWrapper",
    constructor="cropr_mm.LayerDecayConstructor",
    paramwise_cfg=dict(decay_rate=0.8),
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.1),
)
