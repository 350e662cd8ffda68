# DINOv2 ViT-S: queries go through the last three blocks, in twice as many steps (EoMT,
# configs/dinov2/coco/panoptic/eomt_small_640_2x.yaml).
_base_ = "./unpruned_dinov2l_eomt_coco_panoptic.py"
max_iters = 2 * _base_.max_iters
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 6)
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
model = dict(
    backbone=dict(arch="vit_small_patch14_reg4_dinov2", mask_queries=dict(num_blocks=3)),
)
