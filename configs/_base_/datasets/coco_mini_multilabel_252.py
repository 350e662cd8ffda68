# As coco_mini_multilabel, at a size that patches of 14 pixels divide.
data_root = "{{$CROPR_DATA_ROOT:data}}/coco_mini/"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=252, crop_ratio_range=(0.5, 1.0)),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(252, 252)),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="cropr_mm.CocoMultiLabelDataset",
        data_root=data_root,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img_path="train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="cropr_mm.CocoMultiLabelDataset",
        data_root=data_root,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img_path="val/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = [dict(type="AveragePrecision"), dict(type="MultiLabelMetric", thr=0.5)]
test_dataloader = val_dataloader
test_evaluator = val_evaluator
