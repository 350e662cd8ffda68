# Photos of waste from TrashNet: 6 classes, 256 x 192 pixels; here at 252 x 196, which patches of 14
# pixels divide.
data_root = "{{$CROPR_DATA_ROOT:data}}/trashnet/"
classes = ("cardboard", "glass", "metal", "paper", "plastic", "trash")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="RandomResizedCrop",
        scale=(252, 196),
        crop_ratio_range=(0.4, 1.0),
        aspect_ratio_range=(1.0, 16 / 9),
    ),
    dict(type="RandomFlip", prob=[0.25, 0.25], direction=["horizontal", "vertical"]),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(252, 196)),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        data_root=data_root,
        ann_file="train.txt",
        data_prefix="train/",
        metainfo=dict(classes=classes),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root=data_root,
        ann_file="val.txt",
        data_prefix="val/",
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="Accuracy")
test_dataloader = val_dataloader
test_evaluator = val_evaluator
