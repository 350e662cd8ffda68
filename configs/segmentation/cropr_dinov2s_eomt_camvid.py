# Eight steps leave 64 of 432 patches: 85 % pruned. All are back before the queries enter.
_base_ = "./unpruned_dinov2s_eomt_camvid.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(18, 24), num_classes=11),
        schedule=dict(type="cropr_mm.ConstantRate", rate=46),
        fusion=dict(type="cropr_mm.LastLayerFusion", num_blocks=3),
    )
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(18, 24)),
    ),
]
