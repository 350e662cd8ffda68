# ADE20k in squares of 518 pixels: 37 patches of 14, the size that DINOv2 was trained at last.
_base_ = "./ade20k.py"
crop_size = (518, 518)
squares = dict(scale=crop_size, crop_size=crop_size)
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
