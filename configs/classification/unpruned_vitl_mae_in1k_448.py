_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_448.py",
    "../_base_/schedules/mae_in1k.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
model = dict(backbone=dict(img_size=448))
optim_wrapper = dict(accumulative_counts=2)  # 1024 images on eight GPUs
