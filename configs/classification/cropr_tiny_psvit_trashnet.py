# Blocks 1, 3 and 5 hand on 33, 23 and 16 of 48 tokens.
_base_ = "./unpruned_tiny_psvit_trashnet.py"
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
