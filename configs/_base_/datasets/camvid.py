# CamVid with its official split: 367 photos to train, 101 to validate and 233 to test, 360 x 480
# pixels; here at 252 x 336, which patches of 14 pixels divide.
data_root = "{{$CROPR_DATA_ROOT:data}}/camvid/"
crop_size = (252, 336)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=crop_size[::-1], ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=crop_size[::-1], keep_ratio=True),
    dict(type="LoadAnnotations"),  # at its own size: so it is compared
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="cropr_mm.CamVidDataset",
        data_root=data_root,
        ann_file="train.txt",
        data_prefix=dict(img_path="images/train", seg_map_path="masks/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="cropr_mm.CamVidDataset",
        data_root=data_root,
        ann_file="val.txt",
        data_prefix=dict(img_path="images/val", seg_map_path="masks/val"),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="cropr_mm.CamVidDataset",
        data_root=data_root,
        ann_file="test.txt",
        data_prefix=dict(img_path="images/test", seg_map_path="masks/test"),
        pipeline=test_pipeline,
    ),
)
test_evaluator = val_evaluator
