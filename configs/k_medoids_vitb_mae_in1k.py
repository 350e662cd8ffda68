# K-Medoids: at three blocks the medoids of as many clusters stay as 70 % of the tokens.
_base_ = "./unpruned_vitb_mae_in1k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.KMedoids"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[2, 5, 8]),
        out_type="cls_token",
    )
)
