# Token Cropr, supplement, table 3: 64 epochs of 20 210 images in batches of 8, polynomial decay
# without warm-up, evaluation every other epoch; float16 and no gradient clipping as in its code.
# The table's layer decay of 0.9 is without effect in that code, whose scheduler does not read the
# scales of the layers. For what the code does:
# --cfg-options optim_wrapper.paramwise_cfg.decay_rate=1.0
max_epochs = 64
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="cropr_mm.CroprAmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    constructor="cropr_mm.LayerDecayConstructor",
    paramwise_cfg=dict(decay_rate=0.9),
    optimizer=dict(type="AdamW", lr=2e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
)
param_scheduler = [
    dict(
        type="PolyLR",
        power=0.9,
        eta_min=0.0,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
