# EVA-02-L, of random weights until backbone.init_cfg names a checkpoint. The published results
# start from one tuned on ImageNet-21k (timm's eva02_large_patch14_448.mim_m38m_ft_in22k). Settings:
# Token Cropr, supplement, table 2; images as in EVA, EVA-02/asuka/datasets.py.
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/imagenet_448.py",
    "../_base_/schedules/eva02_in1k.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
rgb_mean = [122.7709, 116.7460, 104.0937]
model = dict(
    data_preprocessor=dict(mean=rgb_mean, std=[68.5005, 66.6322, 70.3232]),
    backbone=dict(arch="eva02_large_patch14_448", drop_path_rate=0.15, with_cp=True),
    head=dict(
        loss=dict(label_smooth_val=0.2),
    ),
    train_cfg=dict(_delete_=True),
)
train_pipeline = [
    {
        **step,
        "hparams": dict(pad_val=[round(v) for v in rgb_mean[::-1]], interpolation="bicubic"),
    }
    if step["type"] == "RandAugment"
    else step
    for step in _base_.train_pipeline
    if step["type"] != "RandomErasing"
]
optim_wrapper = dict(accumulative_counts=4)  # 512 images on eight GPUs
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
