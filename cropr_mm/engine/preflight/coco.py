"""Checks of a COCO json."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from cropr_mm.engine.preflight.errors import SetupError, some


def check_coco(dataset: Any, where: str, masks: bool) -> None:
    """Check what mmdet takes from a COCO json by name, without a word where names do not match."""
    file, classes = dataset.ann_file, list(dataset.metainfo["classes"])
    content = _read_coco(file, where)
    names = [category["name"] for category in content["categories"]]
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
    if not content["images"]:
        raise SetupError(f"{where}: expected at least one image, but {file} lists none")
    ids = {category["id"]: category["name"] for category in content["categories"]}
    boxes = Counter(ids.get(box["category_id"]) for box in content.get("annotations", []))
    if not dataset.test_mode and not sum(boxes[name] for name in classes):
        raise SetupError(
            f"{where}: expected annotations of {some(classes)}, but {file} has none of them "
            f"({sum(boxes.values())} annotations in all)"
        )
    bare = [
        annotation
        for annotation in content.get("annotations", [])
        if masks and ids.get(annotation["category_id"]) in classes
        if not annotation.get("segmentation") and annotation.get("area", 1) > 0
    ]
    if bare:
        raise SetupError(
            f"{where}: masks are loaded or scored, but {len(bare)} of {sum(boxes.values())} "
            f"annotations in {file} have no segmentation (the first is that of id "
            f"{bare[0].get('id')}); expected masks, or a model and metrics without"
        )
    others = {name: count for name, count in boxes.items() if name not in classes}
    if others:
        warnings.warn(
            f"{where}: {sum(others.values())} annotations of {len(others)} categories that are not "
            f"among the dataset's classes are left out ({some(sorted(map(str, others)))})",
            stacklevel=2,
        )
    first = Path(dataset.data_prefix.get("img", ""), content["images"][0]["file_name"])
    if not first.is_file():
        raise SetupError(f"{where}: expected the images of {file}, found none at {first}")


def check_multi_label(dataset: Any, where: str) -> None:
    """Check a ``CocoMultiLabelDataset``: its file, its classes and its first image."""
    try:
        samples = dataset.load_data_list()
    except ValueError as error:
        raise SetupError(f"{where}: {error}") from error
    if samples and not Path(samples[0]["img_path"]).is_file():
        raise SetupError(
            f"{where}: expected the images of {dataset.ann_file}, found none at "
            f"{samples[0]['img_path']}"
        )


def _read_coco(file: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{where}: {file} is not valid json: {error}") from error
    keys = ("images", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise SetupError(f"{where}: expected lists 'images' and 'categories' in {file}, got {got}")
    return content
