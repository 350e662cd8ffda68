_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/mae_in1k_base.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
model = dict(
    backbone=dict(arch="vit_base_patch16_224", drop_path_rate=0.1), head=dict(in_channels=768)
)
