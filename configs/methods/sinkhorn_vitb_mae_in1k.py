# Sinkhorn: at three blocks optimal transport to learned queries mixes all tokens into 70 %.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.Sinkhorn")))
