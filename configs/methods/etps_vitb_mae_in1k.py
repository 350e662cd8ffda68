# eTPS: 70 % of the tokens stay at three blocks, those that the class token attends to most; each of
# the others is squeezed into the one that it is most like.
_base_ = "./evit_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.ETPS")))
