# Three steps of 50 tokens instead of one per block; the first removes one more for the class token.
_base_ = "./cropr_vitl_mae_in1k_nofusion.py"
model = dict(
    backbone=dict(schedule=dict(_delete_=True, type="cropr_mm.Stages", rate=50, blocks=[5, 11, 17]))
)
