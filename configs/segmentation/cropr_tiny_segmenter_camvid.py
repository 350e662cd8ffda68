_base_ = "./unpruned_tiny_segmenter_camvid.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(15, 20), num_classes=11),
        schedule=dict(type="cropr_mm.ConstantRate", rate=32),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(type="cropr_mm.CroprCurriculumHook", by_epoch=False),
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(15, 20)),
    ),
]
