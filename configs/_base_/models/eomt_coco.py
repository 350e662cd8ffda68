# Encoder-only segmentation in mmdet: queries in the encoder, and a head without parameters. A leaf
# gives encoder and blocks. Source: EoMT (arXiv 2503.19108), configs/dinov2/coco/panoptic and, for
# the thresholds, training/mask_classification_panoptic.py of its code.
_base_ = "./mask_losses.py"
num_things_classes = 80
num_stuff_classes = 53
num_classes = num_things_classes + num_stuff_classes
num_queries = 200
side = 640
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=side,
        pad_mask=True,
        mask_pad_value=0,
        pad_seg=True,
        seg_pad_value=255,
        batch_augments=[
            dict(
                type="BatchFixedSizePad",
                size=(side, side),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
                pad_seg=True,
                seg_pad_value=255,
            )
        ],
    ),
    backbone=dict(
        type="cropr_mm.CroprViT",
        img_size=side,
        patch_size=16,
        mask_queries=dict(num_queries=num_queries, num_classes=num_classes),
    ),
    panoptic_head=dict(
        type="cropr_mm.MaskQueryHead",
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        num_queries=num_queries,
        **_base_.mask_losses,
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead",
        num_things_classes=num_things_classes,
        num_stuff_classes=num_stuff_classes,
        loss_panoptic=None,
    ),
    train_cfg=_base_.mask_matching,
    test_cfg=dict(
        panoptic_on=True,
        semantic_on=False,
        instance_on=False,
        max_per_image=100,
        object_mask_thr=0.8,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
model["panoptic_head"]["loss_cls"] = dict(
    **_base_.mask_losses["loss_cls"], class_weight=[1.0] * num_classes + [0.1]
)
