# DINOv2 ViT-S on 18 x 18 patches: which of 80 classes are in a photo?
_base_ = [
    "../_base_/models/vit_classifier_tiny.py",
    "../_base_/datasets/coco_mini_multilabel_252.py",
    "../_base_/schedules/dinov2s.py",
    "../_base_/runtime/mmpretrain.py",
]
weights = "{{$CROPR_WEIGHTS_ROOT:weights}}/vit_small_patch14_dinov2_saliency.safetensors"
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="vit_small_patch14_dinov2",
        img_size=252,
        out_type="cls_token",
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    head=dict(
        type="MultiLabelLinearClsHead",
        in_channels=384,
        num_classes=80,
        loss=dict(_delete_=True, type="AsymmetricLoss", gamma_pos=0.0, gamma_neg=4.0, clip=0.05),
    ),
)
