# DToP as a fusion, Token Cropr, table 5: after each of 22 blocks the 40 most confident tokens exit
# with their class logits (of the first block 1 more where there is a class token).
_base_ = "../segmentation/cropr_eva02_segmenter_ade20k.py"
model = dict(
    backbone=dict(
        reducer=dict(_delete_=True, type="cropr_mm.DToP", num_classes=150),
        # Without fusion a constant rate would have one step more.
        schedule=dict(_delete_=True, type="cropr_mm.Stages", rate=40, blocks=list(range(22))),
        fusion=None,
    ),
    decode_head=dict(type="cropr_mm.EarlyExitHead", in_index=0),
)
