# Mask R-CNN of ViTDet, out of the parts of the cascade. A leaf gives the encoder.
# Source: detectron2, configs/common/models/mask_rcnn_vitdet.py.
_base_ = "./cascade_mask_rcnn.py"
cascade = _base_.model.roi_head
model = dict(
    type="MaskRCNN",
    roi_head=dict(
        _delete_=True,
        type="StandardRoIHead",
        bbox_roi_extractor=cascade.bbox_roi_extractor,
        bbox_head={**cascade.bbox_head[0], "reg_class_agnostic": False},
        mask_roi_extractor=cascade.mask_roi_extractor,
        mask_head=cascade.mask_head,
    ),
    train_cfg=dict(rcnn=dict(_delete_=True, **_base_.model.train_cfg.rcnn[0])),
    test_cfg=dict(
        rcnn=dict(
            score_thr=0.05,
            nms=dict(_delete_=True, type="nms", iou_threshold=0.5),
            maskness_thr=None,
        )
    ),
)
