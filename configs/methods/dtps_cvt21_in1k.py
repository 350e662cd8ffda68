# dTPS in CvT-21, before each of blocks 5, 9 and 13 of the third stage; else as in CvT-13.
_base_ = "./dtps_cvt13_in1k.py"
model = dict(backbone=dict(arch="cvt_21", schedule=dict(blocks=[3, 7, 11])))
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
