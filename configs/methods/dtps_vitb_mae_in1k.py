# dTPS: as DynamicViT, but tokens that leave are squeezed into the one that they are most like, and
# the encoder learns at the rate of the predictors.
_base_ = "./dynamic_vit_vitb_mae_in1k.py"
model = dict(backbone=dict(reducer=dict(type="cropr_mm.DTPS")))
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True), optimizer=dict(lr=2.5e-4))
