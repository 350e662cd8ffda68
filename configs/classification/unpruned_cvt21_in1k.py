# CvT-21 from scratch: as CvT-13, but for the weight decay. Source: microsoft/CvT,
# experiments/imagenet/cvt/cvt-21-224x224.yaml, with half the images and half the rate a GPU.
_base_ = "./unpruned_cvt13_in1k.py"
model = dict(backbone=dict(arch="cvt_21"))
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
