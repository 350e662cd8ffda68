# dTPS in CvT-13: 30 epochs from the dense model of unpruned_cvt13_in1k.py (load_from) with a
# learning rate of 5e-5 for 1024 images; half of the tokens leave before each of blocks 3, 6 and 9
# of the third stage, counted from 1. Settings: Wei et al., TPS (arXiv 2304.10716), supplement,
# whose distillation is left out: a teacher serves CroprViT only.
_base_ = "../classification/unpruned_cvt13_in1k.py"
max_epochs = 30
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.DTPS"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[1, 4, 7]),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.KeepRatioTarget", weight=2.0),
    )
]
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {**cosine, "end": max_epochs, "T_max": max_epochs - _base_.warmup_epochs},
]
