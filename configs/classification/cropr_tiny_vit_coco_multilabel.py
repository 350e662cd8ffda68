_base_ = "./unpruned_tiny_vit_coco_multilabel.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=80),
        schedule=dict(type="cropr_mm.ConstantRate", rate=36),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    )
]
