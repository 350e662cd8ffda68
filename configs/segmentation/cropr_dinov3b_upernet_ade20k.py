# Each step is just behind a tap, which then sees every token that was alive since the tap before.
_base_ = "./unpruned_dinov3b_upernet_ade20k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_queries=(32, 32), num_classes=150),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[2, 5, 8]),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(32, 32)),
    ),
]
