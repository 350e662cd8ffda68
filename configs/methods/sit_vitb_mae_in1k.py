# SiT: at three blocks all tokens are mixed into 70 % of their number by learned weights.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.SiT")))
