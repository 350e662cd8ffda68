# Convolutions before the encoder and divided branches, as in LV-ViT.
_base_ = "./cropr_tiny_vit_trashnet.py"
model = dict(backbone=dict(arch=dict(hidden_dim=384, conv_stem=16, residual_divisor=2.0)))
