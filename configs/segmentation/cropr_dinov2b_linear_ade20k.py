# Ours: 110 of 1369 patches a block leave a fifth of them at last.
_base_ = "./unpruned_dinov2b_linear_ade20k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(37, 37), num_classes=150),
        schedule=dict(type="cropr_mm.ConstantRate", rate=110),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(type="cropr_mm.CroprCurriculumHook"),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(37, 37)),
    ),
]
