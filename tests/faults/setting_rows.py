"""Faults of settings that host libraries take, and that do nothing or fail late."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import cv2
from row import Row
from tiny import train_tiny, training, write_tiny

from cropr_mm.engine.cfg_options import add_cfg_options


def _four_channels(folder: Path) -> None:
    """Train on files with transparency, which the pipeline keeps."""
    write_tiny(folder)
    for file in (folder / "cls").rglob("*.png"):
        cv2.imwrite(str(file), cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2BGRA))
    load = dict(type="LoadImageFromFile", color_type="unchanged")
    pipeline = [load, dict(type="PackInputs")]
    train_tiny(folder, "cls", train_dataloader__dataset__pipeline=pipeline)


def _nested_option(folder: Path) -> None:
    parser = ArgumentParser("train.py")
    add_cfg_options(parser, "a=1")
    parser.parse_args(["--cfg-options", "model.backbone.reducer={'type':'A','b':True}"])


EPOCH: dict[str, Any] = dict(
    train_dataloader__sampler=dict(type="DefaultSampler", shuffle=True),
    train_cfg=dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=1),
)
SETTINGS = "Settings that do nothing, or fail late"
ROWS = [
    Row(f"setting-{name}", SETTINGS, fault, says, run)
    for name, fault, says, run in (
        (
            "drop-last",
            "drop_last with fewer images than a batch has",
            "drop_last=True drops every image: expected a batch_size up to 4, .* got 8",
            training(train_dataloader__batch_size=8, train_dataloader__drop_last=True, **EPOCH),
        ),
        (
            "pixels",
            "mean and std for pixels of 0 to 1",
            "mean and std are for pixels of 0 to 1, but images of val_dataloader",
            training(
                model__data_preprocessor__mean=[0.5] * 3, model__data_preprocessor__std=[0.2] * 3
            ),
        ),
        (
            "std",
            "a std of 0",
            r"data_preprocessor\.std: expected numbers > 0, got \[0\.0, 64\.0, 64\.0\]",
            training(model__data_preprocessor__std=[0.0, 64.0, 64.0]),
        ),
        (
            "channels",
            "images with transparency, color_type='unchanged'",
            "images do not fit mean and std .*color_type='color'",
            _four_channels,
        ),
        (
            "checkpoint",
            "checkpoints by epochs in a loop of iterations",
            "default_hooks.checkpoint counts epochs, .* set by_epoch=False",
            training(default_hooks__checkpoint__by_epoch=True),
        ),
        (
            "warm-up",
            "a warm-up longer than the training",
            "LinearLR ends at iteration 1500, after the training, which has 2",
            training(param_scheduler=[dict(type="LinearLR", by_epoch=False, end=1500)]),
        ),
        (
            "monitor",
            "EarlyStoppingHook of a metric that there is not",
            "monitor of EarlyStoppingHook expects a metric .* got 'top9'",
            training(custom_hooks=[dict(type="EarlyStoppingHook", monitor="top9")]),
        ),
        (
            "ema",
            "EMAHook that begins after the training",
            "begin_epoch should be smaller than or equal to runner.max_epochs: 1",
            training(custom_hooks=[dict(type="EMAHook", begin_epoch=3)]),
        ),
        (
            "logits",
            "out_channels=1 with a loss of softmax",
            "out_channels=1 for 2 classes and a loss of softmax.* use_sigmoid=True",
            training("seg", model__decode_head__out_channels=1, model__decode_head__threshold=0.3),
        ),
        (
            "old",
            "entries of mmcv 1",
            "nothing reads lr_config .* its place is now param_scheduler",
            training(lr_config=dict(policy="step", step=[8, 11])),
        ),
        (
            "nested",
            "a dict in --cfg-options",
            r"one value a key, such as model\.backbone\.reducer\.type=\.\.\.",
            _nested_option,
        ),
    )
]
