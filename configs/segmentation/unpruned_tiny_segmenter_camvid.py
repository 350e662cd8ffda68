# Street photos of 240 x 320 pixels: 15 x 20 patches.
_base_ = [
    "../_base_/models/segmenter_tiny.py",
    "../_base_/datasets/camvid_mini.py",
    "../_base_/schedules/tiny.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (240, 320)
model = dict(
    data_preprocessor=dict(size=crop_size, test_cfg=dict(size=crop_size)),
    backbone=dict(
        arch=dict(embed_dim=192, depth=10, num_heads=3), img_size=crop_size, patch_size=16
    ),
    decode_head=dict(in_channels=192, channels=192, num_classes=11),
)
