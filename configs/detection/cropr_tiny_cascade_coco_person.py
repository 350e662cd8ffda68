_base_ = "./unpruned_tiny_cascade_coco_person.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=1),
        schedule=dict(type="cropr_mm.WindowStages", blocks=[1, 3, 5]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    )
]
