_base_ = "./unpruned_vitl_mae_in1k_448.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=1000),
        schedule=dict(type="cropr_mm.ConstantRate", rate=32),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.ClassTarget", loss=_base_.model.head.loss),
    )
]
