# 60 000 steps of 128 images in three rates, as in EVA, EVA-02/det/projects/ViTDet/configs/
# eva2_mim_to_coco/eva2_coco_cascade_mask_rcnn_vitdet_b_4attn_1024_lrd0p7.py.
_base_ = "./cropr_coco.py"
max_iters = 60000
train_cfg = dict(max_iters=max_iters)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.7), optimizer=dict(lr=5e-5))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=False, milestones=[48000, 54000], gamma=0.1),
]
custom_hooks = []
auto_scale_lr = dict(base_batch_size=128)
