# A small CvT on photos at half their size: early stages see many tokens. Its third stage has 6 x 8.
_base_ = "./unpruned_tiny_vit_trashnet.py"
scale = (128, 96)
load, crop, flip, pack = _base_.train_pipeline
_, resize, _ = _base_.test_pipeline
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprCvT",
        arch=dict(embed_dims=(24, 48, 96), depths=(1, 2, 6), num_heads=(1, 2, 4)),
        img_size=(96, 128),
        out_type="cls_token",
    ),
    head=dict(in_channels=96),
)
train_dataloader = dict(dataset=dict(pipeline=[load, {**crop, "scale": scale}, flip, pack]))
val_dataloader = dict(dataset=dict(pipeline=[load, {**resize, "scale": scale}, pack]))
test_dataloader = val_dataloader
