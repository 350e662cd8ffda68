# EVA-02-L with UPerNet, of random weights until backbone.init_cfg names a checkpoint (the published
# one starts from eva02_L_pt_m38m_p14to16). Settings: EVA, EVA-02/seg/configs/eva02/upernet/
# upernet_eva02_large_24_512_slide_80k.py. Steps of 16 images are two batches of 4 on each of two
# GPUs, so iterations, which count batches, are twice as many; batch norms see the images of one
# batch.
_base_ = [
    "mmseg::_base_/models/upernet_beit.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_80k.py",
]
batches = 2
max_iters = 80000 * batches
crop_size = (512, 512)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type="cropr_mm.CroprViT",
        arch="eva02_large_patch14_448",
        img_size=512,
        patch_size=16,
        drop_path_rate=0.2,
        out_indices=(7, 11, 15, 23),
        final_norm=False,
    ),
    neck=dict(embed_dim=1024),
    decode_head=dict(in_channels=[1024] * 4, channels=1024),
    auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(mode="slide", crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(
    _delete_=True,
    type="cropr_mm.CroprAmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    accumulative_counts=batches,
    constructor="cropr_mm.LayerDecayConstructor",
    paramwise_cfg=dict(decay_rate=0.9),
    optimizer=dict(type="AdamW", lr=4e-5, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500 * batches),
    dict(
        type="PolyLR",
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=1500 * batches,
        end=max_iters,
    ),
]
train_cfg = dict(max_iters=max_iters, val_interval=8000 * batches)
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(enable=False, base_batch_size=16)
