"""Faults that a validation meets, after a part of the training unless it is tried before."""

import json
from pathlib import Path
from typing import Any

from row import Row
from tiny import train_tiny, training, write_tiny

LOAD, RESIZE = dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64), keep_ratio=True)
META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def _detecting(without: str) -> Any:
    pack = dict(type="PackDetInputs", meta_keys=[key for key in META if key != without])
    return training("det", val_dataloader__dataset__pipeline=[LOAD, RESIZE, pack])


def _segmenting(*steps: dict[str, Any]) -> Any:
    pipeline = [LOAD, *steps, dict(type="PackSegInputs")]
    return training("seg", val_dataloader__dataset__pipeline=pipeline)


def _other_ids(folder: Path) -> None:
    write_tiny(folder)
    content = json.loads((folder / "det.json").read_text())
    for image in content["images"]:
        image["id"] += 100
    for annotation in content["annotations"]:
        annotation["image_id"] += 100
    (folder / "other.json").write_text(json.dumps(content))
    train_tiny(folder, "det", val_evaluator__ann_file=str(folder / "other.json"))


def _no_annotations(folder: Path) -> None:
    write_tiny(folder)
    content = json.loads((folder / "det.json").read_text())
    (folder / "val.json").write_text(json.dumps({**content, "annotations": []}))
    train_tiny(
        folder,
        "det",
        val_dataloader__dataset__ann_file="val.json",
        val_evaluator__ann_file=str(folder / "val.json"),
    )


VALIDATION = "Validation"
ROWS = [
    Row(f"val-{name}", VALIDATION, fault, f"^error: .*{says}", run)
    for name, fault, says, run in (
        (
            "scale-factor",
            "meta_keys without 'scale_factor'",
            "first image cannot be .*scale_factor",
            _detecting(without="scale_factor"),
        ),
        (
            "image-id",
            "meta_keys without 'img_id'",
            "first image cannot be .*KeyError: img_id",
            _detecting(without="img_id"),
        ),
        (
            "labels",
            "label maps are not loaded",
            "first image cannot be .*KeyError: gt_sem_seg",
            _segmenting(),
        ),
        (
            "size",
            "images too small for the schedule",
            "first image cannot be .*more than the 16 of the image",
            _segmenting(dict(type="Resize", scale=(32, 32)), dict(type="LoadAnnotations")),
        ),
        (
            "label-size",
            "label maps are resized, predictions not",
            "first image cannot be",
            _segmenting(dict(type="LoadAnnotations"), dict(type="Resize", scale=(128, 128))),
        ),
        (
            "other-file",
            "the metric reads a file of other images",
            "no image of id 0, 1, 2, 3",
            _other_ids,
        ),
        (
            "best",
            "save_best='coco/bbox_map'",
            "such as coco/bbox_mAP, got 'coco/bbox_map'",
            training("det", default_hooks__checkpoint__save_best="coco/bbox_map"),
        ),
        (
            "best-prefix",
            "save_best='top1'",
            r"such as accuracy/\.\.\., got 'top1'",
            training(default_hooks__checkpoint__save_best="top1"),
        ),
        (
            "best-rule",
            "rule='bigger'",
            "rule must be greater, less",
            training(
                default_hooks__checkpoint__save_best="accuracy/top1",
                default_hooks__checkpoint__rule="bigger",
            ),
        ),
        (
            "metric",
            "metric='mAP'",
            "metric should be one of 'bbox'",
            training("det", val_evaluator__metric=["mAP"]),
        ),
    )
]
ROWS.append(
    Row(
        "val-no-annotations",
        VALIDATION,
        "the file of the metric has no annotations",
        "there is nothing to score",
        _no_annotations,
    )
)
