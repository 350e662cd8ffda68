# A token is worth the attention that the class token pays it.
_base_ = "./cropr_eva02_segmenter_ade20k.py"
model = dict(backbone=dict(reducer=dict(_delete_=True, type="cropr_mm.AttnTopK", signal="cls_row")))
# This pruner does not learn, so it has no auxiliary loss.
custom_hooks = [hook for hook in _base_.custom_hooks if "AuxLoss" not in hook.type]
