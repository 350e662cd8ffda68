# Ten steps leave 51 of 361 patches and the class token: 86 % pruned before the last block.
_base_ = "./unpruned_dinov2s_mask2former_coco_person.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=1),
        schedule=dict(type="cropr_mm.ConstantRate", rate=31, absorb_prefix=False),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    )
]
