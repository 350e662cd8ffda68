# PatchMerger: at three blocks learned queries mix all tokens into 70 % of their number.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.PatchMerger")))
