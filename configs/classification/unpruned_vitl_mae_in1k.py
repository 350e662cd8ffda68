_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/mae_in1k.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
