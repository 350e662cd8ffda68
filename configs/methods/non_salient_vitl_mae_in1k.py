# Cropr upside down, the sanity check of table 1: it keeps what Cropr would drop first.
_base_ = "../classification/cropr_vitl_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.NonSalient")))
