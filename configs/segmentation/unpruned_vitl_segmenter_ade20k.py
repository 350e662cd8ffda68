# Plain ViT-L, of random weights until backbone.init_cfg names a checkpoint, such as that of timm's
# vit_large_patch16_384.augreg_in21k_ft_in1k, from which Segmenter starts.
_base_ = "./unpruned_eva02_segmenter_ade20k.py"
model = dict(backbone=dict(arch="vit_large_patch16_384"))
