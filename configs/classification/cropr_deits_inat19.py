# 30 epochs from the dense model of unpruned_deits_inat19.py (load_from); half of the tokens leave
# before each of blocks 4, 7 and 10, counted from 1.
_base_ = "../methods/dtps_deits_inat19.py"
model = dict(backbone=dict(reducer=dict(_delete_=True, type="cropr_mm.Cropr", num_classes=1010)))
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.ClassTarget", loss=_base_.model.head.loss),
    )
]
