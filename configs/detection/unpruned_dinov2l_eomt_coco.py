# Instances alone: as unpruned_dinov2l_eomt_coco_panoptic.py without stuff.
_base_ = [
    "../_base_/models/eomt_coco.py",
    "../_base_/datasets/coco_lsj_640.py",
    "../_base_/schedules/eomt_coco.py",
    "../_base_/runtime/default.py",
]
num_classes = 80
(padding,) = _base_.model.data_preprocessor.batch_augments
model = dict(
    data_preprocessor=dict(pad_seg=False, batch_augments=[dict(padding, pad_seg=False)]),
    backbone=dict(
        arch="vit_large_patch14_reg4_dinov2",
        mask_queries=dict(num_blocks=4, num_classes=num_classes),
    ),
    panoptic_head=dict(
        num_stuff_classes=0, loss_cls=dict(class_weight=[1.0] * num_classes + [0.1])
    ),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True),
)
train_dataloader = dict(batch_size=4)
val_evaluator = dict(metric="segm")
test_evaluator = val_evaluator
