_base_ = "./cropr_vitl_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(_delete_=True, type="cropr_mm.RandomPruner")))
custom_hooks = []  # nothing learns to prune
