# The aggressive variant: one step after block 3 (counted from 1) removes 825 of 1025 tokens; the
# other 200 run alone to the end.
_base_ = "./cropr_eva02_in1k_448.py"
model = dict(
    backbone=dict(
        schedule=dict(
            _delete_=True, type="cropr_mm.Stages", rate=825, blocks=[2], absorb_prefix=False
        ),
        fusion=None,
    )
)
