# DINOv2 ViT-S with the small cascade: photos of 256 pixels, padded to 19 x 19 patches of 14.
_base_ = [
    "../_base_/models/cascade_mask_rcnn_tiny.py",
    "../_base_/datasets/coco_person_mini.py",
    "../_base_/schedules/dinov2s.py",
    "../_base_/runtime/default.py",
]
weights = "{{$CROPR_WEIGHTS_ROOT:weights}}/vit_small_patch14_dinov2_saliency.safetensors"
strides = [7, 14, 28, 56]
extractor = dict(featmap_strides=strides[:3], finest_scale=56)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_size_divisor=266
    ),
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="vit_small_patch14_dinov2",
        img_size=266,
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    neck=dict(in_channels=384),
    rpn_head=dict(anchor_generator=dict(strides=strides, scales=[4, 8], ratios=[0.5, 1.0, 2.0])),
    roi_head=dict(
        bbox_roi_extractor=extractor,
        mask_roi_extractor=extractor,
        bbox_head=dict(num_classes=1),
        mask_head=dict(num_classes=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0)),  # after minutes of training no score is high
)
