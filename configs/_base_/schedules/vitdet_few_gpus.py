# ViTDet's settings (vitdet_b_coco.py) on few GPUs: a step of 64 images is eight batches of 4 images
# on each of two GPUs. Iterations count batches, so each number of steps is multiplied; one GPU
# takes batches = 16. Ours: 25 of ViTDet's 100 epochs, with milestones at the same parts of them.
_base_ = "./vitdet_b_coco.py"
batches = 8
max_iters = 46094 * batches
train_cfg = dict(max_iters=max_iters, val_interval=5000 * batches)
optim_wrapper = dict(accumulative_counts=batches)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=250 * batches),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        milestones=[40972 * batches, 44387 * batches],
        gamma=0.1,
    ),
]
