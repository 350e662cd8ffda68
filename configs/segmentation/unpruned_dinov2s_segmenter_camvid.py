# DINOv2 ViT-S on street photos of 252 x 336 pixels: 18 x 24 patches.
_base_ = [
    "../_base_/models/segmenter_linear.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/dinov2s.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (252, 336)
weights = "{{$CROPR_WEIGHTS_ROOT:weights}}/vit_small_patch14_dinov2_saliency.safetensors"
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        size=crop_size,
        test_cfg=dict(size=crop_size),
    ),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_small_patch14_dinov2",
        img_size=crop_size,
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    decode_head=dict(in_channels=384, channels=384, num_classes=11),
)
