# Half of the tokens leave before each of blocks 4, 7 and 10, counted from 1.
_base_ = "./unpruned_deits_coco_multilabel.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.Cropr", num_classes=80),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[2, 5, 8]),
    )
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget"),
    ),
]
