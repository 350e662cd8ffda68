# COCO 2017: which of 80 classes are in the image? Augmentation as in Haurum et al., "Which Tokens
# to Use?": resized to a square, cutout of half the height and width, RandAugment.
data_root = "{{$CROPR_DATA_ROOT:data}}/coco/"
image_size = 224
gray = [104, 116, 124]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(image_size, image_size)),
    dict(type="Cutout", shape=image_size // 2, pad_val=gray, prob=1.0),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=gray, interpolation="bicubic"),
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(image_size, image_size)),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="cropr_mm.CocoMultiLabelDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img_path="train2017/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="cropr_mm.CocoMultiLabelDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img_path="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = [dict(type="AveragePrecision"), dict(type="MultiLabelMetric", thr=0.5)]
test_dataloader = val_dataloader
test_evaluator = val_evaluator
