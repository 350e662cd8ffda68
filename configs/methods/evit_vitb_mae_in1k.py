# EViT: at three blocks 70 % of the tokens stay, those that the class token attends to most, and the
# others become one. In trainings from scratch the rate sinks slowly: CroprCurriculumHook(start=10 /
# 300, end=110 / 300, shape="cosine").
_base_ = "../classification/unpruned_vitb_mae_in1k.py"
model = dict(
    backbone=dict(
        reducer=dict(type="cropr_mm.EViT"),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[3, 6, 9]),
        out_type="cls_token",
    )
)
