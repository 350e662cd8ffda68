# 8 tokens after each block but the last; pooling and head see the 12 that are left, class token
# included.
_base_ = "./cropr_vitl_mae_in1k.py"
model = dict(backbone=dict(fusion=None))
