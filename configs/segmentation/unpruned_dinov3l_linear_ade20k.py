# DINOv3 ViT-L with a linear head, of random weights until backbone.init_cfg names a checkpoint. The
# encoder is tuned as in Token Cropr, supplement, table 3: 8 images, 4 on each of two GPUs. Meta's
# probe (DINOv3, eval/segmentation/configs/config-ade20k-linear-training.yaml) trains the head
# alone, with batch norm:
# --cfg-options model.backbone.frozen_stages=24 optim_wrapper.optimizer.lr=1e-3
_base_ = [
    "../_base_/models/segmenter_linear.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/cropr_ade20k.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (512, 512)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        size=crop_size,
        test_cfg=dict(size=crop_size),
    ),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_large_patch16_dinov3",
        img_size=512,
        # The last block drops nothing, nor does it where tokens are pruned (the released code).
        drop_path_rate=[*(0.2 * i / 23 for i in range(23)), 0.0],
    ),
    decode_head=dict(in_channels=1024, channels=1024, num_classes=150),
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=2))
log_processor = dict(by_epoch=True)
