# K-Medoids: after three blocks, those before EViT's, the medoids of as many clusters stay as 70 %.
_base_ = "./evit_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.KMedoids"), schedule=dict(blocks=[2, 5, 8])))
