"""Checks of a COCO json."""

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cropr_mm.engine.preflight.boxes import check_boxes
from cropr_mm.engine.preflight.coco_entries import SCORED, TRAINED, check_entries, check_references
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.images import ImageFile
from cropr_mm.engine.preflight.instance_masks import check_instance_masks
from cropr_mm.messages import counted, some

Read = Callable[[str], Mapping[str, Any]]


def check_coco(dataset: Any, where: str, masks: bool, read: Read) -> list[ImageFile]:
    """Check what mmdet takes from a COCO json by name, without a word where names do not match.

    Args:
        dataset: mmdet's ``CocoDataset``, built lazily.
        where: Name of the dataset for messages.
        masks: Whether masks are loaded or scored.
        read: :func:`read_coco`, or one that keeps what it read.

    Returns:
        Its images, which are not looked at.

    Raises:
        SetupError: If classes, entries, boxes or masks are at fault, see ``docs/reliability.md``.
    """
    file, classes = dataset.ann_file, list(dataset.metainfo["classes"])
    content = read(file)
    findings = Findings(where, file)
    check_entries(content, findings, TRAINED)
    findings.finish()
    names = [category["name"] for category in content["categories"]]
    _check_classes(names, classes, where, file)
    images = content["images"]
    if not images:
        raise SetupError(f"{where}: expected at least one image, but {file} lists none")
    ids = {category["id"]: category["name"] for category in content["categories"]}
    annotations = check_references(content, findings)
    used = [a for a in annotations if ids[a["category_id"]] in classes and not a.get("ignore")]
    sizes = _sizes(content)
    check_boxes(used, sizes, findings)
    findings.finish()
    total = len(content.get("annotations", []))
    if not dataset.test_mode and not used:
        raise SetupError(
            f"{where}: expected annotations of {some(classes)}, but {file} has none of them "
            f"({counted(total, 'annotation')} in all)"
        )
    if not dataset.test_mode and all(annotation.get("iscrowd") for annotation in used):
        raise SetupError(
            f"{where}: expected single objects, but all {counted(len(used), 'annotation')} of "
            f"{file} have iscrowd=1 (many objects in one box), which no detector learns"
        )
    if masks:
        _check_masks(used, sizes, findings, total)
    others = Counter(ids[a["category_id"]] for a in annotations)
    for name in classes:
        others.pop(name, None)
    if others:
        is_left = "is" if others.total() == 1 else "are"
        warnings.warn(
            f"{where}: {counted(others.total(), 'annotation')} of "
            f"{counted(len(others), 'category')} not among the dataset's classes "
            f"{is_left} left out ({some(sorted(others))})",
            stacklevel=2,
        )
    folder = dataset.data_prefix.get("img", "")
    return [ImageFile(os.path.join(folder, i["file_name"]), sizes[i["id"]]) for i in images]


def _check_masks(
    used: list[dict[str, Any]], sizes: dict[Any, Any], findings: Findings, total: int
) -> None:
    """All objects have a mask, and it can be drawn."""
    bare = [a for a in used if not a.get("segmentation") and a["area"] > 0]
    if bare:
        has = "has" if len(bare) == 1 else "have"
        raise SetupError(
            f"{findings.where}: masks are loaded or scored, but {len(bare)} of {total} "
            f"annotations in {findings.file} {has} no segmentation (the first is that of id "
            f"{bare[0].get('id')}); expected masks, or a model and metrics without"
        )
    check_instance_masks([a for a in used if a.get("segmentation")], sizes, findings)
    findings.finish()


def check_truth(file: str, where: str, masks: bool, read: Read, seen: bool) -> None:
    """Check the COCO json that a metric compares predictions with.

    Args:
        file: The json.
        where: Name of the evaluator for messages.
        masks: Whether masks are scored.
        read: As in :func:`check_coco`.
        seen: Whether :func:`check_coco` looked at this file already.

    Raises:
        SetupError: If it lacks what the metric reads, crowds included, or boxes or masks are at
            fault.
    """
    content, findings = read(file), Findings(where, file)
    check_entries(content, findings, SCORED)
    findings.finish()
    if not content.get("annotations"):
        warnings.warn(
            f"{where}: {file} has no annotations: there is nothing to score, and metrics are -1",
            stacklevel=2,
        )
    if seen:
        return
    used, sizes = check_references(content, findings), _sizes(content)
    check_boxes(used, sizes, findings)
    findings.finish()
    if masks:
        _check_masks(used, sizes, findings, len(used))


def check_multi_label(dataset: Any, where: str) -> list[ImageFile]:
    """Check file and classes of a ``CocoMultiLabelDataset``; returns its images."""
    try:
        return [ImageFile(sample["img_path"]) for sample in dataset.load_data_list()]
    except ValueError as error:
        raise SetupError(f"{where}: {error}") from error


def read_coco(file: str) -> dict[str, Any]:
    """Content of a COCO json.

    Raises:
        SetupError: If it is no json, or has no lists of images and categories.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{file} is not valid json: {error}") from error
    keys = ("images", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise SetupError(f"expected lists 'images' and 'categories' in {file}, got {got}")
    return content


def _sizes(content: Mapping[str, Any]) -> dict[Any, tuple[float, float]]:
    """Width and height of each image in pixels, by id."""
    return {image["id"]: (image["width"], image["height"]) for image in content["images"]}


def _check_classes(names: list[str], classes: list[str], where: str, file: str) -> None:
    """The dataset's classes are categories of the file, in its order."""
    missing = [name for name in classes if name not in names]
    if missing:
        raise SetupError(
            f"{where}: {file} lacks {len(missing)} of the dataset's {len(classes)} classes "
            f"({some(missing)}); it has {some(names)}; set metainfo=dict(classes=...)"
        )
    order = [name for name in names if name in classes]
    if order != classes:
        raise SetupError(
            f"{where}: metainfo must list the classes in the order of the json's categories, since "
            f"labels follow the json; expected {some(order)}; got {some(classes)}"
        )
