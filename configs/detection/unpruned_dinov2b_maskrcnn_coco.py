# DINOv2 ViT-B with registers in ViTDet, of random weights until backbone.init_cfg names a
# checkpoint. Settings: detectron2, projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py.
# Ours: patches of 16 pixels, resampled from 14 as EVA-02-det does, so that strides are those of the
# heads; windows of 16 patches beside class token and registers, in the place of relative positions;
# the final norm, behind which DINOv2 learned.
_base_ = [
    "../_base_/models/mask_rcnn_vitdet.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/vitdet_few_gpus.py",
    "../_base_/runtime/default.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # to the square, after normalization
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_base_patch14_reg4_dinov2",
        img_size=1024,
        patch_size=16,
        drop_path_rate=0.1,
        window_size=16,
        global_block_indexes=range(2, 12, 3),
    ),
    neck=dict(in_channels=768),
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=5000, max_keep_ckpts=2))
