_base_ = "./unpruned_eva02s_dino_coco.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=80),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[3, 6, 9]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    )
]
