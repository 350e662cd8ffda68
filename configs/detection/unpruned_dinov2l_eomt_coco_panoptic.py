# DINOv2 ViT-L of random weights until backbone.init_cfg names a checkpoint; 200 queries go through
# its last four blocks. Images have 640 pixels, patches 16, to which a checkpoint's weights of
# patches of 14 are resampled.
_base_ = [
    "../_base_/models/eomt_coco.py",
    "../_base_/datasets/coco_panoptic_640.py",
    "../_base_/schedules/eomt_coco.py",
    "../_base_/runtime/default.py",
]
model = dict(
    backbone=dict(arch="vit_large_patch14_reg4_dinov2", mask_queries=dict(num_blocks=4)),
)
