# Steps are just before global blocks, which see what is left in all windows. The one map is taken
# behind the last block, where every token is back. Reducers learn which things are in an image:
# mmdet's samples list no stuff.
_base_ = "./unpruned_dinov3b_mask2former_coco_panoptic.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=133),
        schedule=dict(type="cropr_mm.WindowStages", blocks=[1, 4, 7]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    )
]
