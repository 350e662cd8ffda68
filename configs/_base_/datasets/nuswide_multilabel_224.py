# NUS-WIDE: which of 81 concepts are in the image? Files as the National University of Singapore
# publishes them (Flickr/, ImageList/, Groundtruth/TrainTestLabels/, ConceptsList/). Augmentation as
# for COCO in Haurum et al., "Which Tokens to Use?".
_base_ = "./coco_multilabel_224.py"
data_root = "{{$CROPR_DATA_ROOT:data}}/nuswide/"
dataset = dict(_delete_=True, type="cropr_mm.NUSWideDataset", data_root=data_root)
train_dataloader = dict(
    dataset=dict(dataset, split="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    dataset=dict(dataset, split="test", test_mode=True, pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
