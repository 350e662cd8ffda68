# Six steps leave 39 of 256 patches and the class token; the last block sees all of them again.
_base_ = "./unpruned_tiny_vit_digits_multilabel.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=10),
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
