# CvT-13 from scratch: 300 epochs of 2048 images with a learning rate of 2e-3, which the published
# file says as 2.5e-4 for each of 8 GPUs. Norms, biases and the class token are not decayed.
# Augmentation is that of the other recipes. Source: Wu et al., CvT (arXiv 2103.15808);
# microsoft/CvT, experiments/imagenet/cvt/cvt-13-224x224.yaml and lib/config/default.py.
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/in1k_scratch.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
max_epochs = 300
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprCvT",
        arch="cvt_13",
        drop_path_rate=0.1,
        out_type="cls_token",
    ),
    head=dict(in_channels=384),
)
train_dataloader = dict(batch_size=256)
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    {**warmup, "start_factor": 1e-6 / 2e-3},
    {
        **cosine,
        "end": max_epochs,
        "T_max": max_epochs - _base_.warmup_epochs,
        "eta_min_ratio": 1e-5 / 2e-3,
    },
]
auto_scale_lr = dict(base_batch_size=2048)
