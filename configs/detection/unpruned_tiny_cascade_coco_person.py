# Real photos of 256 pixels: patches of 16 make the 16 x 16 grid of the demo, at twice its strides.
_base_ = [
    "../_base_/models/cascade_mask_rcnn_tiny.py",
    "../_base_/datasets/coco_person_mini.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/default.py",
]
strides = [8, 16, 32, 64]
extractor = dict(featmap_strides=strides[:3], finest_scale=56)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_size_divisor=256
    ),
    backbone=dict(img_size=256, patch_size=16),
    rpn_head=dict(anchor_generator=dict(strides=strides, scales=[4, 8], ratios=[0.5, 1.0, 2.0])),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        mask_roi_extractor=extractor,
        bbox_head=dict(num_classes=1),
        mask_head=dict(num_classes=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0)),  # after minutes of training no score is high
)
