# DPC-KNN: clusters of tokens around density peaks merge, at three blocks into 70 % of their number.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.DPCKNN")))
