# A small pyramid; its third stage has 12 x 16 tokens.
_base_ = "./unpruned_tiny_vit_trashnet.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprPVT",
        arch=dict(
            depths=(2, 2, 6, 2),
            embed_dims=(16, 32, 64, 128),
            num_heads=(1, 1, 2, 4),
            mlp_ratios=(4, 4, 4, 4),
        ),
        img_size=(192, 256),
        out_indices=(3,),
    ),
    neck=dict(type="GlobalAveragePooling"),
)
