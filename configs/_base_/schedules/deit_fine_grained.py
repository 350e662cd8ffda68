# 50 epochs of 1024 images with a learning rate of 1e-3; the encoder learns at a tenth of it, and
# weights are averaged. These are the settings of Haurum et al., "Which Tokens to Use?", for DeiT on
# NABirds; CUB, another data set of birds, takes them too. There the encoder is also frozen in the
# first 5 epochs (dict(type="cropr_mm.ThawHook", end=5) does that), and norms and biases are not
# decayed (mmengine decays all parameters of a part that has a learning rate of its own).
_base_ = "./mae_in1k.py"
optim_wrapper = dict(
    _delete_=True,
    type="cropr_mm.CroprAmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"backbone": dict(lr_mult=0.1), "backbone.reducers": dict(lr_mult=1.0)},
    ),
)
custom_hooks = [dict(type="EMAHook", momentum=1e-4)]
