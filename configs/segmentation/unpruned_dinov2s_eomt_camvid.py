# DINOv2 ViT-S on street photos of 252 x 336 pixels; 100 queries go through the last three blocks
# (arXiv 2503.19108, their number for semantic segmentation and for a ViT-S).
_base_ = [
    "../_base_/models/eomt_semantic.py",
    "../_base_/datasets/camvid.py",
    "../_base_/schedules/dinov2s.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (252, 336)
num_classes = 11
num_queries = 100
weights = "{{$CROPR_WEIGHTS_ROOT:weights}}/vit_small_patch14_dinov2_saliency.safetensors"
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_small_patch14_dinov2",
        img_size=crop_size,
        mask_queries=dict(num_queries=num_queries, num_blocks=3, num_classes=num_classes),
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    decode_head=dict(
        num_classes=num_classes,
        num_queries=num_queries,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
    ),
)
custom_hooks = [dict(type="cropr_mm.MaskAnnealingHook")]
