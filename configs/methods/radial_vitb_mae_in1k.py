# Fixed pattern: discs around the center, of about 70 % of the patches that were there before; 140,
# 96 and 68 of 196.
_base_ = "./k_medoids_vitb_mae_in1k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.RadialPruner", norm="l2"),
        schedule=dict(_delete_=True, type="cropr_mm.Discs", ratio=0.7, blocks=[2, 5, 8], norm="l2"),
    )
)
