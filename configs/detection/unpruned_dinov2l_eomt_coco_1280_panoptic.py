# Squares of 1280 pixels, for which activations are recomputed.
_base_ = "./unpruned_dinov2l_eomt_coco_panoptic.py"
image_size = 1280
squares = dict(scale=(image_size, image_size), crop_size=(image_size, image_size))
train_pipeline = [
    {**step, **{key: square for key, square in squares.items() if key in step}}
    for step in _base_.train_pipeline
]
test_pipeline = [
    {**step, **{key: square for key, square in squares.items() if key in step}}
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
(padding,) = _base_.model.data_preprocessor.batch_augments
model = dict(
    data_preprocessor=dict(
        pad_size_divisor=image_size,
        batch_augments=[dict(padding, size=squares["scale"])],
    ),
    backbone=dict(img_size=image_size, with_cp=True),
)
