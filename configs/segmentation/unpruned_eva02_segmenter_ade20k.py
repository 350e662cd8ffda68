# EVA-02-L of random weights until backbone.init_cfg names a checkpoint; the published results start
# from masked image modeling (timm's eva02_large_patch14_224.mim_m38m).
_base_ = [
    "../_base_/models/segmenter_linear.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/cropr_ade20k.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (512, 512)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="eva02_large_patch14_448",
        img_size=512,
        patch_size=16,
        # The last block drops nothing, nor does it where tokens are pruned (the released code).
        drop_path_rate=[*(0.2 * i / 23 for i in range(23)), 0.0],
    ),
    decode_head=dict(in_channels=1024, channels=1024, num_classes=150),
)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=2))
log_processor = dict(by_epoch=True)
