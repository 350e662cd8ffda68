# A small CvT; its third stage has 6 x 8 tokens.
_base_ = [
    "../_base_/models/vit_classifier_tiny.py",
    "../_base_/datasets/trashnet_mini_128.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/mmpretrain.py",
]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprCvT",
        arch=dict(embed_dims=(24, 48, 96), depths=(1, 2, 6), num_heads=(1, 2, 4)),
        img_size=(96, 128),
        out_type="cls_token",
    ),
    head=dict(num_classes=6, in_channels=96),
)
