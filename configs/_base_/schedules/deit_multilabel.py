# 40 epochs of 512 images with a learning rate of 1e-4; weights are averaged: Haurum et al., "Which
# Tokens to Use?", DeiT on multi-label COCO and NUS-WIDE. It trains in bfloat16, since the
# asymmetric loss clips probabilities at 1e-8, which is 0 in float16.
_base_ = "./deit_fine_grained.py"
max_epochs = 40
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    dtype="bfloat16", optimizer=dict(lr=1e-4), paramwise_cfg=dict(custom_keys=dict(_delete_=True))
)
warmup, cosine = _base_.param_scheduler
param_scheduler = [
    warmup,
    {**cosine, "end": max_epochs, "T_max": max_epochs - _base_.warmup_epochs},
]
custom_hooks = [dict(type="EMAHook", momentum=3e-4)]
auto_scale_lr = dict(base_batch_size=512)
