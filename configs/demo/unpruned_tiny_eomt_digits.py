# From scratch: 30 queries go through the last two of eight blocks.
_base_ = [
    "../_base_/models/eomt_semantic.py",
    "../_base_/datasets/demo_digits_semantic.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/mmseg.py",
]
num_classes = 11
num_queries = 30
model = dict(
    data_preprocessor=dict(mean=[75.0] * 3, std=[45.0] * 3, size=(128, 128)),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch=dict(embed_dim=128, depth=8, num_heads=4, cls_token=False, rope="eva"),
        img_size=128,
        patch_size=8,
        mask_queries=dict(num_queries=num_queries, num_blocks=2, num_classes=num_classes),
    ),
    decode_head=dict(
        num_classes=num_classes,
        num_queries=num_queries,
        loss_cls=dict(class_weight=[1.0] * num_classes + [0.1]),
        train_cfg=dict(num_points=1024),
    ),
)
custom_hooks = [dict(type="cropr_mm.MaskAnnealingHook")]
# Length and rate of unpruned_tiny_segmenter_digits.py; what is learned in it: docs/encoder_only.md.
max_iters = 1400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [_base_.param_scheduler[0], dict(_base_.param_scheduler[1], end=max_iters)]
