# Blocks 1, 3 and 5 of the third stage hand on 134, 94 and 65 of 192 tokens; to the fourth stage,
# cells whose tokens left are zero.
_base_ = "./unpruned_tiny_pvt_trashnet.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=6),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[0, 2, 4]),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.ClassTarget", loss=_base_.model.head.loss),
    )
]
