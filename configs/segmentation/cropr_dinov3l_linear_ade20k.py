_base_ = "./unpruned_dinov3l_linear_ade20k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(32, 32), num_classes=150),
        schedule=dict(type="cropr_mm.ConstantRate", rate=40),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(type="cropr_mm.CroprCurriculumHook"),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(32, 32)),
    ),
]
