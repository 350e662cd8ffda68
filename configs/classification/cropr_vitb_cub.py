_base_ = "./unpruned_vitb_cub.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=200),
        schedule=dict(type="cropr_mm.ConstantRate", rate=16),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.ClassTarget", loss=_base_.model.head.loss),
    ),
]
