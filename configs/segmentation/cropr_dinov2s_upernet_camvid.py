# Each step is just behind a tap, which then sees every token that was alive since the tap before:
# 54 of 432 patches are left before the last block, 88 % pruned.
_base_ = "./unpruned_dinov2s_upernet_camvid.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(18, 24), num_classes=11),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[2, 5, 8]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(18, 24)),
    ),
]
