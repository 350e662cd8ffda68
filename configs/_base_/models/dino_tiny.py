# DINO as in mmdet, dino/dino-4scale_r50_8xb2-12e_coco.py, with half of its width and of its layers,
# a quarter of the width of its MLPs and a ninth of its queries: a CPU trains it. A leaf gives the
# encoder and the classes.
width, num_levels, num_layers = 128, 4, 3
attention = dict(embed_dims=width, dropout=0.0)
deformable = dict(**attention, num_levels=num_levels)
mlp = dict(embed_dims=width, feedforward_channels=512, ffn_drop=0.0)
model = dict(
    type="DINO",
    num_queries=100,
    with_box_refine=True,
    as_two_stage=True,
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    neck=dict(
        type="cropr_mm.SimpleFPN",
        out_channels=width,
        scale_factors=[2.0, 1.0, 0.5, 0.25],
        num_outs=num_levels,
    ),
    encoder=dict(num_layers=num_layers, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=mlp)),
    decoder=dict(
        num_layers=num_layers,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(**attention, num_heads=8), cross_attn_cfg=deformable, ffn_cfg=mlp
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(num_feats=width // 2, normalize=True, temperature=20),
    bbox_head=dict(
        type="DINOHead",
        embed_dims=width,
        num_classes=80,
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=100),
    ),
    train_cfg=dict(
        assigner=dict(
            type="HungarianAssigner",
            match_costs=[
                dict(type="FocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=20),
)
