# DINOv2 ViT-S in mmseg's UPerNet, on street photos of 252 x 336 pixels. Taps and scales are those
# of mmseg's ViT, its channels a quarter or less of them: a CPU trains it in minutes.
_base_ = "./unpruned_dinov2s_segmenter_camvid.py"
levels = 4
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11)),
    neck=dict(
        type="MultiLevelNeck",
        in_channels=[384] * levels,
        out_channels=128,
        scales=[4, 2, 1, 0.5],
    ),
    decode_head=dict(
        _delete_=True,
        type="UPerHead",
        in_channels=[128] * levels,
        in_index=list(range(levels)),
        pool_scales=(1, 2, 3, 6),
        channels=128,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
)
