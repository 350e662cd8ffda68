# DeiT-S on iNaturalist 2019, trained for 300 epochs of 1024 images from backbone.init_cfg (timm's
# deit_small_patch16_224.fb_in1k) before it is pruned. Settings: Wei et al., TPS (arXiv 2304.10716),
# supplement, for DeiT without distillation; augmentation and label smoothing are DeiT's.
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/inat19_224.py",
    "../_base_/schedules/mae_in1k.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
max_epochs = 300
model = dict(
    data_preprocessor=dict(num_classes=1010),
    backbone=dict(arch="deit_small_patch16_224", drop_path_rate=0.1, out_type="cls_token"),
    head=dict(num_classes=1010, in_channels=384),
)
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0),
    optimizer=dict(lr=1e-3),
)
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {
        **cosine,
        "end": max_epochs,
        "T_max": max_epochs - _base_.warmup_epochs,
        "eta_min_ratio": 1e-5 / 1e-3,
    },
]
