# dTPS on iNaturalist 2019: 30 epochs from the dense model of unpruned_deits_inat19.py (load_from),
# half of the tokens leave before each of blocks 4, 7 and 10, counted from 1. Settings: Wei et al.,
# TPS (arXiv 2304.10716), supplement; no distillation.
_base_ = "../classification/unpruned_deits_inat19.py"
max_epochs = 30
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.DTPS"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[2, 5, 8]),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.KeepRatioTarget", weight=2.0),
    )
]
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {**cosine, "end": max_epochs, "T_max": max_epochs - _base_.warmup_epochs},
]
