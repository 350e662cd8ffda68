_base_ = "./cropr_vitl_mae_in1k_3stage.py"
model = dict(backbone=dict(fusion=dict(_delete_=True, type="cropr_mm.LastLayerFusion")))
