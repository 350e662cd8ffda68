# ViTDet: plain ViT-B with relative position bias, of random weights until backbone.init_cfg names a
# checkpoint; the published results start from MAE (mae_pretrain_vit_base.pth).
_base_ = [
    "../_base_/models/mask_rcnn_vitdet.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/vitdet_b_coco.py",
    "../_base_/runtime/default.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # to the square, after normalization
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_base_patch16_224",
        img_size=1024,
        with_cls_token=False,
        drop_path_rate=0.1,
        window_size=14,
        window_rope="slot",
        global_block_indexes=range(2, 12, 3),
        use_rel_pos=True,
        final_norm=False,
    ),
    neck=dict(in_channels=768),
)
default_hooks = dict(checkpoint=dict(interval=5000, max_keep_ckpts=2))
