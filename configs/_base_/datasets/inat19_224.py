# iNaturalist 2019: 1010 species. Files as the competition publishes them: train2019.json and
# val2019.json in COCO's form, images in train_val2019/. Augmentation as on ImageNet.
_base_ = "./imagenet_224.py"
data_root = "{{$CROPR_DATA_ROOT:data}}/inat2019/"
dataset = dict(_delete_=True, type="cropr_mm.CocoSingleLabelDataset", data_root=data_root)
train_dataloader = dict(
    dataset=dict(dataset, ann_file="train2019.json", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    dataset=dict(dataset, ann_file="val2019.json", test_mode=True, pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
