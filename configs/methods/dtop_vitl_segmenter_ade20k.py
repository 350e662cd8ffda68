# DToP as published: after the 8th and the 16th block all tokens exit whose class an
# attention-to-mask head is confident about, but for the five most confident of each class. They are
# masked, not dropped, so this encoder is not faster than the dense one. It fine-tunes a trained
# dense model, to be named in load_from, for 40 000 iterations of 8 images, heads at ten times the
# encoder's rate.
# The last head is linear here, where the published one is another attention-to-mask head.
_base_ = "../segmentation/unpruned_vitl_segmenter_ade20k.py"
max_epochs = 16
model = dict(
    backbone=dict(
        with_cls_token=False,
        drop_path_rate=0.0,
        reducer=dict(
            type="cropr_mm.DToP", num_classes=150, confidence=0.95, head="mask", mask_dim=512
        ),
        schedule=dict(type="cropr_mm.KeepRatios", ratio=1.0, blocks=[7, 15]),
    ),
    decode_head=dict(type="cropr_mm.EarlyExitHead", in_index=0),
)
custom_hooks = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.PatchMaskTarget", grid=(32, 32)),
    )
]
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(
    constructor="DefaultOptimWrapperConstructor",
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={"backbone.reducers": dict(lr_mult=10.0), "decode_head": dict(lr_mult=10.0)},
    ),
    optimizer=dict(weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, end=1500),
    dict(_base_.param_scheduler[0], end=max_epochs),
]
