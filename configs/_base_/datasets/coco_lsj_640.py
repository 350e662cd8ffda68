# Large-scale jitter to squares of 640 pixels.
_base_ = "./coco_lsj.py"
image_size = 640
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
