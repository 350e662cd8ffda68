# Mask2Former for instances as in mmdet, mask2former/mask2former_r50_8xb2-lsj-50e_coco.py, with half
# of its width, a third of its layers, a fifth of its queries and a sixteenth of its points: a CPU
# trains it. A leaf gives the encoder and the classes.
_base_ = "./mask_losses.py"
width, num_levels, num_queries = 128, 4, 20
attention = dict(embed_dims=width, num_heads=8, dropout=0.0, batch_first=True)
mlp = dict(
    embed_dims=width,
    feedforward_channels=512,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type="ReLU", inplace=True),
)
position = dict(num_feats=width // 2, normalize=True)
model = dict(
    type="Mask2Former",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
    ),
    neck=dict(
        type="cropr_mm.SimpleFPN",
        out_channels=width,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
        num_outs=num_levels,
    ),
    panoptic_head=dict(
        type="Mask2FormerHead",
        in_channels=[width] * num_levels,
        strides=[4, 8, 16, 32],
        feat_channels=width,
        out_channels=width,
        num_things_classes=80,
        num_stuff_classes=0,
        num_queries=num_queries,
        num_transformer_feat_level=num_levels - 1,
        pixel_decoder=dict(
            type="MSDeformAttnPixelDecoder",
            num_outs=num_levels - 1,
            norm_cfg=dict(type="GN", num_groups=32),
            act_cfg=dict(type="ReLU"),
            encoder=dict(
                num_layers=2,
                layer_cfg=dict(
                    self_attn_cfg=dict(**attention, num_levels=num_levels - 1, num_points=4),
                    ffn_cfg=mlp,
                ),
            ),
            positional_encoding=position,
        ),
        enforce_decoder_input_project=False,
        positional_encoding=position,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=mlp),
            init_cfg=None,
        ),
        **_base_.mask_losses,
    ),
    panoptic_fusion_head=dict(
        type="MaskFormerFusionHead",
        num_things_classes=80,
        num_stuff_classes=0,
        loss_panoptic=None,
    ),
    train_cfg=dict(**_base_.mask_matching),
    test_cfg=dict(
        panoptic_on=False,
        semantic_on=False,
        instance_on=True,
        max_per_image=num_queries,
        iou_thr=0.8,
        filter_low_score=True,
    ),
)
model["train_cfg"]["num_points"] = 784
