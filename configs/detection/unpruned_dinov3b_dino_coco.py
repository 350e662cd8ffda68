# DINOv3 ViT-B in mmdet's DINO, of random weights until backbone.init_cfg names a checkpoint. Steps
# of 16 images and 12 epochs as in mmdet, dino/dino-4scale_r50_8xb2-12e_coco.py: four batches of 2
# on each of two GPUs. Ours: the rates of layers; windows as in unpruned_dinov3b_maskrcnn_coco.py,
# and so levels from one map of the last block, as in ViTDet.
_base_ = "./unpruned_eva02s_dino_coco.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="vit_base_patch16_dinov3",
        img_size=1024,
        drop_path_rate=0.1,
        window_size=16,
        window_rope="slot",
        global_block_indexes=range(2, 12, 3),
    ),
    neck=dict(in_channels=768),
)
optim_wrapper = dict(accumulative_counts=4)
