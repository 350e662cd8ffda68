# DINOv3 ViT-B in mmseg's UPerNet, of random weights until backbone.init_cfg names a checkpoint. All
# settings are mmseg's, vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py, and so are the
# four taps, at even distances as in DINOv3's segmenters. A step of 16 images is 8 on each of two
# GPUs.
_base_ = "./unpruned_vitb_upernet_ade20k.py"
model = dict(backbone=dict(arch="vit_base_patch16_dinov3"))
# DINOv3 has registers beside the class token, and no position embedding.
spared = dict(decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(_delete_=True, cls_token=spared, reg_token=spared, norm=spared)
    )
)
train_dataloader = dict(batch_size=8)
