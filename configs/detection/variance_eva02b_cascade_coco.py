_base_ = "./cropr_eva02b_cascade_coco.py"
model = dict(backbone=dict(reducer=dict(_delete_=True, type="cropr_mm.VariancePruner")))
custom_hooks = _base_.custom_hooks[:-1]  # without the auxiliary loss: nothing learns to prune
