# Cascade Mask R-CNN as in ViTDet and EVA-02-det, on the simple pyramid of a plain Vision
# Transformer, which a leaf gives. Sources: detectron2, configs/common/models/mask_rcnn_fpn.py and
# mask_rcnn_vitdet.py, projects/ViTDet/configs/COCO/cascade_mask_rcnn_vitdet_b_100ep.py; test
# settings: EVA, EVA-02/det/README.md, those of the system-level comparisons, but with at most 100
# detections (Token Cropr, supplement, table 4), where EVA keeps all above a score of 0.001.
norm_cfg = dict(type="cropr_mm.ChannelNorm", eps=1e-6)
stages = ((0.5, 10.0), (0.6, 20.0), (0.7, 30.0))  # IoU of a match, precision of the boxes
model = dict(
    type="CascadeRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    neck=dict(
        type="cropr_mm.SimpleFPN",
        in_channels=1024,
        out_channels=256,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        num_outs=5,
    ),
    rpn_head=dict(
        type="RPNHead",
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        type="cropr_mm.SharedMaskCascadeRoIHead",
        num_stages=len(stages),
        stage_loss_weights=[1.0] * len(stages),
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=[
            dict(
                type="Shared4Conv1FCBBoxHead",
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                norm_cfg=norm_cfg,
                roi_feat_size=7,
                num_classes=80,
                reg_class_agnostic=True,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0] * 4,
                    target_stds=[1 / precision] * 2 + [2 / precision] * 2,
                ),
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="L1Loss", loss_weight=1.0),
                init_cfg=[
                    dict(type="Normal", std=0.01, override=dict(name="fc_cls")),
                    dict(type="Normal", std=0.001, override=dict(name="fc_reg")),
                    dict(type="Caffe2Xavier", override=dict(name="shared_fcs")),
                ],
            )
            for _, precision in stages
        ],
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="cropr_mm.ConvUpsampleMaskHead",
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=80,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.0,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=256,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=2000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="RandomSampler",
                    num=512,
                    pos_fraction=0.25,
                    neg_pos_ub=-1,
                    add_gt_as_proposals=True,
                )
                if stage == 0
                else dict(type="PseudoSampler"),  # all boxes of the stage before
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for stage, (iou, _) in enumerate(stages)
        ],
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.0,
            nms=dict(type="cropr_mm.soft_nms", iou_threshold=0.6, method="linear"),
            max_per_img=100,
            maskness_thr=0.5,
            mask_thr_binary=0.5,
        ),
    ),
)
