# There is no class token: a token is worth the attention that all queries of its window pay it.
_base_ = "./cropr_eva02b_cascade_coco.py"
model = dict(
    backbone=dict(
        reducer=dict(_delete_=True, type="cropr_mm.AttnTopK", signal="column_mean"),
    )
)
# This pruner does not learn, so it has no auxiliary loss.
custom_hooks = [hook for hook in _base_.custom_hooks if "AuxLoss" not in hook.type]
