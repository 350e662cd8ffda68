# ViT-L and linear classifier as in MAE's fine-tuning, of random weights until backbone.init_cfg
# names a checkpoint (mae_pretrain_vit_large.pth, or timm's vit_large_patch16_224.mae). Pooling is
# that of Token Cropr's released code: the mean of all tokens that are left, class token included
# ('avg_all'), then the norm. MAE's own code leaves the class token out ('avg_featmap').
# Source: Token Cropr, supplement, table 1, and its code (initial values of the head; MAE's own code
# starts with a standard deviation of 2e-5).
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_large_patch16_224",
        drop_path_rate=0.2,
        out_type="avg_all",
    ),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=1024,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
