# There is no class token: a token is worth the attention that all queries of its window pay it.
_base_ = "./cropr_eva02b_cascade_coco.py"
model = dict(
    backbone=dict(
        reducer=dict(_delete_=True, type="cropr_mm.AttnTopK", signal="column_mean"),
    )
)
custom_hooks = _base_.custom_hooks[:-1]  # without the auxiliary loss: nothing learns to prune
