# DINOv2 ViT-S with a small Mask2Former: photos of 256 pixels, padded to 19 x 19 patches of 14.
# Heads of queries learn at 3e-4, the encoder at the same share of that as in its other recipes.
_base_ = [
    "../_base_/models/mask2former_tiny.py",
    "../_base_/datasets/coco_person_mini.py",
    "../_base_/schedules/dinov2s.py",
    "../_base_/runtime/default.py",
]
weights = "{{$CROPR_WEIGHTS_ROOT:weights}}/vit_small_patch14_dinov2_saliency.safetensors"
model = dict(
    data_preprocessor=dict(pad_size_divisor=266),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_small_patch14_dinov2",
        img_size=266,
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    neck=dict(in_channels=384),
    panoptic_head=dict(num_things_classes=1, loss_cls=dict(class_weight=[1.0, 0.1])),
    panoptic_fusion_head=dict(num_things_classes=1),
)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
train_dataloader = dict(batch_size=4)
