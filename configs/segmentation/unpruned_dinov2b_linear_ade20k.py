# DINOv2 ViT-B with a linear head, of random weights until backbone.init_cfg names a checkpoint. The
# encoder is tuned as in Token Cropr, supplement, table 3: 8 images, 4 on each of two GPUs. Meta's
# probe (DINOv2, dinov2_vitb14_ade20k_linear_config.py) trains the head alone, with batch norm:
# --cfg-options model.backbone.frozen_stages=12 optim_wrapper.optimizer.lr=1e-3
_base_ = [
    "../_base_/models/segmenter_linear.py",
    "../_base_/datasets/ade20k_518.py",
    "../_base_/schedules/cropr_ade20k.py",
    "../_base_/runtime/mmseg.py",
]
crop_size = (518, 518)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        size=crop_size,
        test_cfg=dict(size=crop_size),
    ),
    backbone=dict(
        type="cropr_mm.CroprViT",
        arch="vit_base_patch14_dinov2",
        img_size=518,
        # The last block drops nothing, nor does it where tokens are pruned (the released code).
        drop_path_rate=[*(0.1 * i / 11 for i in range(11)), 0.0],
    ),
    decode_head=dict(in_channels=768, channels=768, num_classes=150),
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=2))
log_processor = dict(by_epoch=True)
