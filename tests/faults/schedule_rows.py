"""Faults of schedules, of tokens and of learning rates, and of optimizers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from row import Row
from tiny import training


def _schedule(**settings: Any) -> Callable[[Path], None]:
    return training(model__backbone__schedule={"_delete_": True, **settings})


def _optimizer(**settings: Any) -> Callable[[Path], None]:
    return training(optim_wrapper__optimizer={"_delete_": True, **settings})


# A rate of reducers is no fault in a model without them.
_RATES = dict(custom_keys={"bakbone": dict(lr_mult=0.1), "backbone.reducers": dict(lr_mult=1.0)})
SCHEDULES, OPTIMIZERS = "Schedules of tokens", "Optimizers and their rates"
ROWS = [
    Row(name, SCHEDULES, fault, says, run)
    for name, fault, says, run in (
        (
            "rate-float",
            "`rate=1.5`",
            "rate in whole",
            _schedule(type="cropr_mm.ConstantRate", rate=1.5),
        ),
        ("rate-zero", "`rate=0`", "rate in whole", _schedule(type="cropr_mm.ConstantRate", rate=0)),
        (
            "rate-text",
            "`rate='8'`",
            "rate in whole",
            _schedule(type="cropr_mm.ConstantRate", rate="8"),
        ),
        (
            "rate-large",
            "more tokens than there are",
            "are more than the 64 of the image; min_keep",
            _schedule(type="cropr_mm.ConstantRate", rate=40),
        ),
        (
            "ratio-large",
            "`ratio=1.5`",
            r"expected ratio in \(0, 1\], got 1\.5",
            _schedule(type="cropr_mm.KeepRatios", ratio=1.5, blocks=[1]),
        ),
        (
            "stages-float",
            "`Stages(rate=[1.5])`",
            "rate in whole",
            _schedule(type="cropr_mm.Stages", blocks=[1], rate=[1.5]),
        ),
        (
            "explicit-float",
            "`num_keep={1: 8.5}`",
            "num_keep in whole",
            _schedule(type="cropr_mm.ExplicitTokens", num_keep={1: 8.5}),
        ),
    )
]
ROWS += [
    Row(name, OPTIMIZERS, fault, says, run)
    for name, fault, says, run in (
        (
            "optimizer-argument",
            "`AdamW(lrr=1)`",
            "unexpected keyword argument 'lrr'",
            _optimizer(type="AdamW", lrr=1),
        ),
        (
            "optimizer-type",
            "`Adamw`",
            "no optimizer is called 'Adamw'",
            _optimizer(type="Adamw", lr=1e-3),
        ),
        (
            "optimizer-negative",
            "a negative rate",
            r"Invalid learning rate: -1\.0",
            _optimizer(type="AdamW", lr=-1.0),
        ),
        (
            "optimizer-text",
            "a rate as text",
            "lr: expected a number, got '1e-3'",
            _optimizer(type="AdamW", lr="1e-3"),
        ),
        (
            "optimizer-none",
            "no optimizer",
            "optim_wrapper: expected optimizer=dict",
            training(optim_wrapper=dict(_delete_=True, type="OptimWrapper")),
        ),
        (
            "optimizer-part",
            "a rate for a part that the model lacks",
            "custom_keys: no parameter has bakbone in its name .*backbone, head",
            training(optim_wrapper__paramwise_cfg=_RATES),
        ),
        (
            "optimizer-option",
            "`paramwise_cfg=dict(norm_decay_mul=0)`",
            r"nothing reads norm_decay_mul in optim_wrapper\.paramwise_cfg",
            training(optim_wrapper__paramwise_cfg=dict(norm_decay_mul=0.0)),
        ),
        (
            "optimizer-entry",
            "a rate of a part as `lr_mul`",
            r"nothing reads lr_mul in optim_wrapper\.paramwise_cfg\.custom_keys",
            training(optim_wrapper__paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mul=0.1)))),
        ),
        (
            "scheduler-type",
            "an unknown schedule of the rate",
            "CosineLR is not in the .*registry",
            training(param_scheduler=[dict(type="CosineLR", T_max=3)]),
        ),
        (
            "scheduler-end",
            "a schedule that ends before it begins",
            "end should be larger than begin",
            training(
                param_scheduler=[
                    dict(type="LinearLR", start_factor=0.1, begin=3, end=1, by_epoch=False)
                ]
            ),
        ),
        (
            "scheduler-epochs",
            "a schedule of epochs in a loop of iterations",
            "counts epochs",
            training(param_scheduler=[dict(type="MultiStepLR", milestones=[1], by_epoch=True)]),
        ),
    )
]
