# EVA-02-L with windows, of random weights until backbone.init_cfg or load_from names a checkpoint.
# The published results start from EVA-02-det tuned on Objects365.
_base_ = [
    "./_base_/models/cascade_mask_rcnn.py",
    "./_base_/datasets/coco_lsj.py",
    "./_base_/schedules/cropr_coco.py",
    "./_base_/runtime/default.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=1536),  # to the square, after normalization
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="eva02_large_patch14_448",
        img_size=1536,
        patch_size=16,
        with_cls_token=False,
        drop_path_rate=0.3,
        window_size=16,
        global_block_indexes=range(2, 24, 3),
        final_norm=False,
        with_cp=True,
    ),
)
default_hooks = dict(checkpoint=dict(interval=5000, max_keep_ckpts=2))
