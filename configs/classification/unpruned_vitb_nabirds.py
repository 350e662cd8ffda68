# DeiT-B on NABirds, of random weights until backbone.init_cfg names a checkpoint (timm's
# deit_base_patch16_224.fb_in1k). Settings: Haurum et al., "Which Tokens to Use?".
_base_ = [
    "../_base_/models/vit_mae_classifier.py",
    "../_base_/datasets/nabirds.py",
    "../_base_/schedules/deit_fine_grained.py",
    "../_base_/runtime/mmpretrain_epochs.py",
]
model = dict(
    data_preprocessor=dict(num_classes=555),
    backbone=dict(arch="deit_base_patch16_224", drop_path_rate=0.1, out_type="cls_token"),
    head=dict(
        num_classes=555,
        in_channels=768,
        loss=dict(_delete_=True, type="CrossEntropyLoss"),
    ),
    train_cfg=dict(_delete_=True),
)
