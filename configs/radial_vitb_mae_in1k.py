# Fixed pattern: the 70 % of the patches nearest to the centre stay at three blocks.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.RadialPruner")))
