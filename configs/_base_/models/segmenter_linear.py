# Segmenter with the linear decoder: the encoder's last norm, one linear layer per patch, bilinear
# upsampling, cross-entropy at full resolution over pixels with a class. A leaf gives the encoder.
# Source: Token Cropr, segm/segmenter.py and segm/engine.py of its code.
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    decode_head=dict(
        type="FCNHead",
        num_convs=0,
        kernel_size=1,
        concat_input=False,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", avg_non_ignore=True),
        init_cfg=dict(type="TruncNormal", std=2e-5, bias=0, override=dict(name="conv_seg")),
    ),
    test_cfg=dict(mode="whole"),
)
