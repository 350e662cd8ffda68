"""Faults of label maps, and of what configs say about labels."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from row import Row
from tiny import train_tiny, write_tiny


def _train(folder: Path, labels: dict[int, int], which: int | None = None, **changes: Any) -> None:
    """Map labels (0 and 1) to others in one of four maps, or in all, and train."""
    write_tiny(folder)
    for file in sorted((folder / "masks").glob(f"{'*' if which is None else which}.png")):
        old = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        new = old.copy()
        for label, other in labels.items():
            new[old == label] = other
        cv2.imwrite(str(file), new)
    train_tiny(folder, "seg", **changes)


def _damaged(folder: Path, content: bytes) -> None:
    write_tiny(folder)
    (folder / "masks/2.png").write_bytes(content)
    train_tiny(folder, "seg")


def _small(folder: Path) -> None:
    write_tiny(folder)
    cv2.imwrite(str(folder / "masks/2.png"), np.zeros((32, 64), np.uint8))
    train_tiny(folder, "seg")


MAPS = "Label maps"
LOAD = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
AUXILIARY = [
    dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget", ignore_index=0),
    )
]
ROWS = [
    Row(f"map-{name}", MAPS, fault, says, run)
    for name, fault, says, run in (
        (
            "white",
            "masks of 0 and 255, two classes",
            r"class 'box' \(label 1\) is in none of the 4 .*255.* is in 4: are these masks",
            partial(_train, labels={1: 255}),
        ),
        (
            "absent",
            "a class that no map has",
            r"1 class is in none of the 4 label maps looked at: 'box' \(1\)",
            partial(_train, labels={1: 0}),
        ),
        (
            "outside",
            "a label that is no class",
            r"expected labels in \[0, 1\].* got \[7\] in .*2\.png",
            partial(_train, labels={1: 7}, which=2),
        ),
        (
            "nothing",
            "maps of 255 alone",
            "nothing to learn",
            partial(_train, labels={0: 255, 1: 255}),
        ),
        (
            "zero-label",
            "reduce_zero_label in the pipeline alone",
            "set it in the dataset",
            partial(_train, labels={}, train_dataloader__dataset__pipeline=LOAD),
        ),
        (
            "ignore-head",
            "ignore_index=0 of the head, 255 in the maps",
            r"decode_head has ignore_index=0 .* 255 is in the label maps of train_dataloader",
            partial(_train, labels={0: 255, 1: 1}, which=2, model__decode_head__ignore_index=0),
        ),
        (
            "ignore-target",
            "ignore_index=0 of the target, 255 in the maps",
            r"MultiLabelTarget of .* has ignore_index=0",
            partial(
                _train,
                labels={0: 255},
                which=2,
                model__backbone__reducer=dict(type="cropr_mm.Cropr", num_classes=2, _delete_=True),
                custom_hooks=AUXILIARY,
            ),
        ),
        (
            "padding-outside",
            "seg_pad_val that is no class and not ignored",
            r"9 is in padding \(seg_pad_val\)",
            partial(_train, labels={}, model__data_preprocessor__seg_pad_val=9),
        ),
        (
            "padding-class",
            "seg_pad_val that is a class",
            "seg_pad_val=1, which is a class",
            partial(_train, labels={}, model__data_preprocessor__seg_pad_val=1),
        ),
        (
            "class-weight",
            "class_weight of another length",
            "class_weight with one number for each of 2 classes, got 3",
            partial(
                _train,
                labels={},
                model__decode_head__loss_decode=dict(
                    type="CrossEntropyLoss", class_weight=[1.0, 2.0, 3.0]
                ),
            ),
        ),
        (
            "empty",
            "a map of no bytes",
            r"masks/2\.png: it is empty",
            partial(_damaged, content=b""),
        ),
        (
            "page",
            "a web page in place of a map",
            r"masks/2\.png: it is a web page",
            partial(_damaged, content=b"<html></html>"),
        ),
        ("size", "a map of another size than its image", r"got 32x64 in .*2\.png", _small),
    )
]
