# Encoder-only segmentation in mmseg: queries in the encoder, and a head without parameters. A leaf
# gives the encoder and the numbers.
_base_ = "./mask_losses.py"
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    decode_head=dict(
        type="cropr_mm.SegMaskQueryHead", **_base_.mask_losses, train_cfg=_base_.mask_matching
    ),
    test_cfg=dict(mode="whole"),
)
