# PS-ViT-B/14 from scratch: 300 epochs with a learning rate of 5e-4, warm-up from 1e-6 in 3 epochs,
# mean weights of a momentum of 4e-5, no random erasing, weak mixing. The released file has 64
# images on each GPU; that there are 8 is ours. Blocks behind the sampling skip branches at the
# published rates; those of the sampling, whose rates are below 0.03, never do. The published
# dropout of 0.1 is left out: blocks here have none. Source: Yue et al., PS-ViT (arXiv 2108.01684);
# yuexy/PS-ViT, configs/ps_vit_b_14.yaml and main.py.
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/in1k_scratch.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
max_epochs, warmup_epochs = 300, 3
model = dict(
    backbone=dict(
        arch="ps_vit_b_14",
        drop_path_rate=[0.1 * block / 13 for block in range(4, 14)],
        out_type="cls_token",
    ),
    head=dict(in_channels=384),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)]),
)
train_pipeline = [step for step in _base_.train_pipeline if step["type"] != "RandomErasing"]
load, edge, crop, pack = _base_.test_pipeline
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=[load, {**edge, "scale": 248}, crop, pack]))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    {**warmup, "start_factor": 1e-6 / 5e-4, "end": warmup_epochs},
    {
        **cosine,
        "begin": warmup_epochs,
        "end": max_epochs,
        "T_max": max_epochs - warmup_epochs,
        "eta_min_ratio": 1e-5 / 5e-4,
    },
]
custom_hooks = [dict(type="EMAHook", momentum=4e-5)]
auto_scale_lr = dict(base_batch_size=512)
