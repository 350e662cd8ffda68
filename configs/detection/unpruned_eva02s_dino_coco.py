# mmdet's own config with another backbone and neck: four restored maps make the four levels.
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="eva02_small_patch14_224",
        img_size=1024,
        patch_size=16,
        out_indices=[2, 5, 8, 11],
        final_norm=False,
    ),
    data_preprocessor=dict(pad_size_divisor=32),
    neck=dict(
        _delete_=True,
        type="cropr_mm.SimpleFPN",
        in_channels=384,
        out_channels=256,
        scale_factors=[2.0, 1.0, 0.5, 0.25],
        num_outs=4,
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="cropr_mm.CroprOptimWrapper",
    constructor="cropr_mm.LayerDecayConstructor",
    paramwise_cfg=dict(decay_rate=0.8),
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1, norm_type=2),
)
