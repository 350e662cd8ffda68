# DynamicViT: predictors before the 4th, 7th and 10th block learn which 70 % of the tokens stay. As
# published the encoder is frozen in the first 5 epochs and hardly moves from then on. There the
# dense model that it starts from also teaches it:
# CroprAuxLossHook(teacher=dict(checkpoint="dense.pth", logits="head.fc"), ...).
_base_ = "../classification/unpruned_vitb_mae_in1k.py"
max_epochs = 30
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.DynamicViT"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[2, 5, 8]),
    )
)
custom_hooks = [
    dict(type="cropr_mm.ThawHook", end=5),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.KeepRatioTarget", weight=2.0),
    ),
]
find_unused_parameters = True  # under data parallelism, while the encoder is frozen
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={"backbone": dict(lr_mult=0.01), "backbone.reducers": dict(lr_mult=1.0)},
    ),
    optimizer=dict(lr=1e-3),
)
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {**cosine, "end": max_epochs, "T_max": max_epochs - _base_.warmup_epochs},
]
