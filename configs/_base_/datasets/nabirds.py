# NABirds: 555 classes of birds, as Cornell Lab of Ornithology publishes it (images/, images.txt,
# image_class_labels.txt, train_test_split.txt). Augmentation as in Haurum et al., "Which Tokens to
# Use?": crops and flips.
_base_ = "./cub.py"
data_root = "{{$CROPR_DATA_ROOT:data}}/nabirds/"
dataset = dict(_delete_=True, type="cropr_mm.NABirdsDataset", data_root=data_root)
train_dataloader = dict(
    dataset=dict(dataset, split="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    dataset=dict(dataset, split="test", test_mode=True, pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
