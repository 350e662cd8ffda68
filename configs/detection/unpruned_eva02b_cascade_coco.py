# EVA-02-B with windows, of random weights until backbone.init_cfg names a checkpoint: the published
# results start from masked image modeling (eva02_B_pt_in21k_p14to16). They are measured with hard
# suppression and one score for boxes and masks (EVA, EVA-02/det/README.md).
_base_ = [
    "../_base_/models/cascade_mask_rcnn.py",
    "../_base_/datasets/coco_lsj_1024.py",
    "../_base_/schedules/eva02_b_coco.py",
    "../_base_/runtime/default.py",
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=1024),  # to the square, after normalization
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="eva02_base_patch14_448",
        img_size=1024,
        patch_size=16,
        with_cls_token=False,
        drop_path_rate=0.1,
        window_size=16,
        global_block_indexes=range(2, 12, 3),
        final_norm=False,
    ),
    neck=dict(in_channels=768),
    test_cfg=dict(
        rcnn=dict(
            score_thr=0.05,
            nms=dict(_delete_=True, type="nms", iou_threshold=0.5),
            maskness_thr=None,
        )
    ),
)
train_dataloader = dict(batch_size=16)
default_hooks = dict(checkpoint=dict(interval=5000, max_keep_ckpts=2))
