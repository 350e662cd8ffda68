_base_ = "./unpruned_vitl_mae_in1k.py"
model = dict(
    backbone=dict(arch="vit_huge_patch14_224", drop_path_rate=0.3), head=dict(in_channels=1280)
)
