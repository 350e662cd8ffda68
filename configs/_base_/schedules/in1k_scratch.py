# As mae_in1k.py, but every layer learns at the same rate; norms, biases and the class token are not
# decayed.
_base_ = "./mae_in1k.py"
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"cls_token": dict(decay_mult=0.0)},
    ),
)
