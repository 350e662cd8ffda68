# A token is worth the attention that the class token pays it; the class token is also what is
# classified (Token Cropr, table 1).
_base_ = "./cropr_vitl_mae_in1k.py"
model = dict(
    backbone=dict(
        reducer=dict(_delete_=True, type="cropr_mm.AttnTopK", signal="cls_row"),
        out_type="cls_token",
    )
)
custom_hooks = []  # nothing learns to prune
