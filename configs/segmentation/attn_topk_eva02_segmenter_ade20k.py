# A token is worth the attention that the class token pays it.
_base_ = "./cropr_eva02_segmenter_ade20k.py"
model = dict(backbone=dict(reducer=dict(_delete_=True, type="cropr_mm.AttnTopK", signal="cls_row")))
custom_hooks = _base_.custom_hooks[:-1]  # without the auxiliary loss: nothing learns to prune
