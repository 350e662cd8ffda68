# Ten steps leave 61 of 432 patches before the last block: 86 % pruned.
_base_ = "./unpruned_dinov2s_segmenter_camvid.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(18, 24), num_classes=11),
        schedule=dict(type="cropr_mm.ConstantRate", rate=37),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(18, 24)),
    ),
]
