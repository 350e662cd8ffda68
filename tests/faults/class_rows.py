"""Faults of folders of classes, of lists of labels, and of what models take for classes."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from row import Row
from tiny import train_tiny, write_tiny


def _validate(folder: Path, names: tuple[str, ...]) -> None:
    """Validate on copies of the folders of classes, under these names."""
    write_tiny(folder)
    for name, source in zip(names, ("disc", "box"), strict=False):
        shutil.copytree(folder / "cls" / source, folder / "val" / name)
    train_tiny(folder, "cls", val_dataloader__dataset__data_prefix="val")


def _listed(folder: Path, line: str) -> None:
    """Train on a list of images with this second line."""
    write_tiny(folder)
    (folder / "list.txt").write_text(f"disc/0.png 0\n{line}\n")
    changes = dict(ann_file="list.txt", metainfo=dict(classes=("disc", "box")))
    train_tiny(folder, "cls", train_dataloader__dataset=changes)


def _classify(folder: Path, **changes: Any) -> None:
    train_tiny(folder, "cls", **changes)


def _hidden(folder: Path) -> None:
    write_tiny(folder)
    shutil.copytree(folder / "cls/disc", folder / "cls/.ipynb_checkpoints")
    train_tiny(folder, "cls")


def _two_sizes(folder: Path) -> None:
    write_tiny(folder)
    file = str(folder / "cls/disc/0.png")
    cv2.imwrite(file, cv2.resize(cv2.imread(file), (96, 96)))
    train_tiny(folder, "cls", val_dataloader__batch_size=1)


def _pyramid(folder: Path, **changes: Any) -> None:
    neck = dict(
        type="cropr_mm.SimpleFPN",
        _delete_=True,
        in_channels=16,
        out_channels=16,
        **(dict(scale_factors=[1.0, 0.5], num_outs=2) | changes),
    )
    train_tiny(folder, "det", model__neck=neck)


MIXUP = dict(augments=[dict(type="Mixup", alpha=0.2)])
FOLDERS, MODELS = "Folders and lists of classes", "Classes and levels of models"
ROWS = [
    Row(
        "class-folder",
        FOLDERS,
        "validation lacks the folder of a class",
        r"^error: val_dataloader: .* lacks box",
        partial(_validate, names=("disc",)),
    ),
    Row(
        "class-folder-name",
        FOLDERS,
        "validation has a folder of another name",
        r"^error: val_dataloader: .* lacks box and has cube",
        partial(_validate, names=("disc", "cube")),
    ),
    Row(
        "class-folder-count",
        FOLDERS,
        "a folder more than there are classes",
        r"each of 3 classes .* found 2",
        partial(_classify, train_dataloader__dataset__metainfo=dict(classes=("a", "b", "c"))),
    ),
    Row(
        "class-folder-hidden",
        FOLDERS,
        "a hidden folder among those of classes",
        r"takes every folder in .*cls for a class, \.ipynb_checkpoints too",
        _hidden,
    ),
    Row(
        "image-sizes",
        FOLDERS,
        "images of two sizes in a batch",
        "images of one batch differ in size",
        _two_sizes,
    ),
    Row(
        "list-no-label",
        FOLDERS,
        "a line without a label",
        r"list\.txt: 1 line has no label \(2: 'box/1\.png'\)",
        partial(_listed, line="box/1.png"),
    ),
    Row(
        "list-text",
        FOLDERS,
        "a label that is text",
        r"list\.txt: 1 line has a label that is no number \(2: 'box/1\.png box'\)",
        partial(_listed, line="box/1.png box"),
    ),
    Row(
        "list-missing",
        FOLDERS,
        "an image of a list is missing",
        r"1 image is missing .*box/9\.png",
        partial(_listed, line="box/9.png 1"),
    ),
    Row(
        "list-outside",
        FOLDERS,
        "a label that is no class",
        r"labels in \[0, 1\] .* got \[2\]",
        partial(_listed, line="box/1.png 2"),
    ),
    Row(
        "classes-order",
        FOLDERS,
        "validation has the classes in another order",
        r"val_dataloader: expected the classes of train_dataloader .*'disc' for 'box'",
        partial(
            _classify,
            train_dataloader__dataset__metainfo=dict(classes=("box", "disc")),
            val_dataloader__dataset__metainfo=dict(classes=("disc", "box")),
        ),
    ),
    Row(
        "mixup",
        MODELS,
        "mixup without num_classes",
        r"with Mixup: .*num_classes",
        partial(_classify, model__train_cfg=MIXUP, model__data_preprocessor__num_classes=None),
    ),
    Row(
        "levels",
        MODELS,
        "more maps of SimpleFPN than strides of the head",
        r"SimpleFPN has 3 maps .* 8, 16, 32 .* bbox_head, got strides 8, 16$",
        partial(_pyramid, num_outs=3),
    ),
    Row(
        "strides",
        MODELS,
        "maps of SimpleFPN of other strides than the head's",
        r"SimpleFPN has 2 maps .* 4, 8 .* got strides 8, 16$",
        partial(_pyramid, scale_factors=[2.0, 1.0]),
    ),
]
