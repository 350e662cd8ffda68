# ATS: at most 70 % of the tokens stay at three blocks, as many as sampling finds worth it.
_base_ = "./evit_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.ATS")))
