# The same photos at half their size, 128 x 96 pixels.
_base_ = "./trashnet_mini.py"
scale = (128, 96)
load, crop, flip, pack = _base_.train_pipeline
_, resize, _ = _base_.test_pipeline
train_dataloader = dict(dataset=dict(pipeline=[load, {**crop, "scale": scale}, flip, pack]))
val_dataloader = dict(dataset=dict(pipeline=[load, {**resize, "scale": scale}, pack]))
test_dataloader = val_dataloader
