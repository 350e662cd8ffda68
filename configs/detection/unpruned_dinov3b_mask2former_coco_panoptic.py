# DINOv3 ViT-B in mmdet's panoptic Mask2Former, of random weights until backbone.init_cfg names a
# checkpoint. Steps of 16 images, 50 epochs and all rates as in mmdet,
# mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py: four batches of 2 on each of two GPUs,
# so iterations, which count batches, are four times as many. Ours: the encoder and its pyramid, as
# in unpruned_dinov3b_maskrcnn_coco.py; images of any size are padded to whole patches; the metric
# is panoptic quality alone. Loading and metric need panopticapi (docs/encoders.md).
_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py"
batches = 4
max_iters = 368750 * batches
interval = 5000 * batches
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
    neck=dict(type="cropr_mm.SimpleFPN", in_channels=768, out_channels=256, num_outs=4),
    panoptic_head=dict(in_channels=[256, 256, 256, 256]),
)
optim_wrapper = dict(
    type="cropr_mm.CroprOptimWrapper",
    accumulative_counts=batches,
    # Reducers learn from random weights, at the rate of the heads.
    paramwise_cfg=dict(custom_keys={"backbone.reducers": dict(lr_mult=1.0)}),
)
param_scheduler = dict(end=max_iters, milestones=[327778 * batches, 355092 * batches])
train_cfg = dict(
    max_iters=max_iters,
    val_interval=interval,
    dynamic_intervals=[(max_iters // interval * interval + 1, max_iters)],
)
default_hooks = dict(checkpoint=dict(interval=interval))
# The sampler of mmdet's config would end an epoch, for which a loop of iterations waits.
train_dataloader = dict(sampler=dict(type="InfiniteSampler"))
val_evaluator = [
    dict(
        type="CocoPanopticMetric",
        ann_file="data/coco/annotations/panoptic_val2017.json",
        seg_prefix="data/coco/annotations/panoptic_val2017/",
    )
]
test_evaluator = val_evaluator
