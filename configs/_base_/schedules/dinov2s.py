# Fine-tuning of DINOv2 ViT-S in minutes on a CPU: the head learns at 1e-3, the last block at
# 1.5e-4, each block before it at three quarters of that.
max_iters = 300
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
depth = 12
encoder_mult = 0.15
layer_decay = 0.75
embedding = dict(lr_mult=encoder_mult * layer_decay**depth)
optim_wrapper = dict(
    type="cropr_mm.CroprOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05, foreach=True),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={
            "backbone.patch_embed": embedding,
            "backbone.pos_embed": embedding,
            "backbone.cls_token": embedding,
            **{
                f"backbone.blocks.{i}.": dict(lr_mult=encoder_mult * layer_decay ** (depth - 1 - i))
                for i in range(depth)
            },
        },
    ),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=max_iters, eta_min_ratio=0.01),
]
