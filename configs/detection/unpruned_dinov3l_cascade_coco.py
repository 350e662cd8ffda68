# DINOv3 ViT-L in ViTDet, of random weights until backbone.init_cfg names a checkpoint. Rates of
# layers and of DropPath and the four global blocks: detectron2,
# projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_l_100ep.py. Ours: what
# unpruned_dinov3b_maskrcnn_coco.py names.
_base_ = [
    "../_base_/models/cascade_mask_rcnn.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/vitdet_few_gpus.py",
    "../_base_/runtime/default.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # to the square, after normalization
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_large_patch16_dinov3",
        img_size=1024,
        drop_path_rate=0.4,
        window_size=16,
        window_rope="slot",  # coordinates in [-1, 1], as in pretraining; "origin" has up to 7
        global_block_indexes=range(5, 24, 6),
        with_cp=True,
    ),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=5000, max_keep_ckpts=2))
