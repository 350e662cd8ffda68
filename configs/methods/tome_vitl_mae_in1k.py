# ToMe: 8 pairs of tokens merge in each block but the last, between attention and MLP; the mean of
# patch tokens weighs them by their size, attention does not (as published for encoders of MAE).
_base_ = "../classification/unpruned_vitl_mae_in1k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.ToMe"),
        schedule=dict(type="cropr_mm.InflectedRate", rate=8),
        out_type="avg_featmap",
    )
)
