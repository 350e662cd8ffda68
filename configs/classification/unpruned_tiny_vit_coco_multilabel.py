# Which of 80 classes are in a photo? 16 x 16 patches of 16 pixels. The set is far too small to
# learn all of them from; it shows that the parts fit.
_base_ = [
    "../_base_/models/vit_classifier_tiny.py",
    "../_base_/datasets/coco_mini_multilabel.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/mmpretrain.py",
]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(img_size=256, patch_size=16),
    head=dict(
        type="MultiLabelLinearClsHead",
        num_classes=80,
        loss=dict(_delete_=True, type="AsymmetricLoss", gamma_pos=0.0, gamma_neg=4.0, clip=0.05),
    ),
)
