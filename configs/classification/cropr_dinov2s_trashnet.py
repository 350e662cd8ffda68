# Ten steps leave 32 of 252 patches and the class token: 87 % pruned before the last block.
_base_ = "./unpruned_dinov2s_trashnet.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=6),
        schedule=dict(type="cropr_mm.ConstantRate", rate=22, absorb_prefix=False),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.ClassTarget", loss=_base_.model.head.loss),
    )
]
