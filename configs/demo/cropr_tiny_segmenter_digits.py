# Six steps leave 34 of 256 patches; the last block sees all of them again. Cropr learns by one
# query which digits are in the picture: most pixels are clutter, so that one query for each cell
# (as in ../cropr_tiny_segmenter_camvid.py) would mostly ask for clutter.
_base_ = "./unpruned_tiny_segmenter_digits.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=11),
        schedule=dict(type="cropr_mm.ConstantRate", rate=37),
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
