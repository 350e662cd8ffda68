# dTPS in PS-ViT-B/14: 30 epochs from the dense model of unpruned_psvitb_in1k.py (load_from) with a
# learning rate of 5e-4 for 768 images; half of the tokens leave before each of blocks 3, 6 and 9,
# which we take to be those behind the sampling, counted from 1. Settings: Wei et al., TPS (arXiv
# 2304.10716), supplement, without its distillation. It names no mean of weights, so there is none.
_base_ = "../classification/unpruned_psvitb_in1k.py"
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
train_dataloader = dict(batch_size=96)
train_cfg = dict(max_epochs=max_epochs)
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {**cosine, "end": max_epochs, "T_max": max_epochs - _base_.warmup_epochs},
]
auto_scale_lr = dict(base_batch_size=768)
