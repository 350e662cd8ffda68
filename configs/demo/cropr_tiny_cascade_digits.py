_base_ = "./unpruned_tiny_cascade_digits.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=10),
        schedule=dict(type="cropr_mm.WindowStages", blocks=[1, 3, 5]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    ),
    dict(type="cropr_mm.PruningMapHook", interval=1, max_images=12),
]
