# DeiT-S on NUS-WIDE, of random weights until backbone.init_cfg names a checkpoint (timm's
# deit_small_patch16_224.fb_in1k). Haurum et al., "Which Tokens to Use?": asymmetric loss.
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/nuswide_multilabel_224.py",
    "../_base_/schedules/deit_multilabel.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
model = dict(
    data_preprocessor=dict(num_classes=81),
    backbone=dict(arch="deit_small_patch16_224", drop_path_rate=0.1, out_type="cls_token"),
    head=dict(
        type="MultiLabelLinearClsHead",
        num_classes=81,
        in_channels=384,
        loss=dict(_delete_=True, type="AsymmetricLoss", gamma_pos=0.0, gamma_neg=4.0, clip=0.05),
    ),
    train_cfg=dict(_delete_=True),
)
