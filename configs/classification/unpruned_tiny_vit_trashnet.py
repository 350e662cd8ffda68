# 12 x 16 patches of 16 pixels.
_base_ = [
    "../_base_/models/vit_classifier_tiny.py",
    "../_base_/datasets/trashnet_mini.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/mmpretrain.py",
]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(img_size=(192, 256), patch_size=16),
    head=dict(num_classes=6),
)
