# EoMT (arXiv 2503.19108) on COCO: 12 epochs of 16 images: 88 692 steps; a polynomial of power 0.9,
# mixed precision, gradients of norm 0.01, decay of the rate by 0.8 a block. A step is two batches
# of 4 images on each of two GPUs, so iterations, which count batches, are twice as many. Ours: one
# warm-up of all weights in the place of two, of new ones over 500 steps and then of the encoder
# over 1000; the decay begins one layer above the last block.
# Source: training/lightning_module.py, main.py and configs/dinov2/coco of its code.
batches = 2
max_iters = 88692 * batches
warmup = 1500 * batches
val_interval = max_iters // 6
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=val_interval)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="cropr_mm.CroprAmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    constructor="cropr_mm.LayerDecayConstructor",
    paramwise_cfg=dict(decay_rate=0.8, no_decay=[]),
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=0.01),
    accumulative_counts=batches,
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type="PolyLR", power=0.9, by_epoch=False, begin=warmup, end=max_iters),
]
custom_hooks = [dict(type="cropr_mm.MaskAnnealingHook")]
auto_scale_lr = dict(enable=False, base_batch_size=16)
