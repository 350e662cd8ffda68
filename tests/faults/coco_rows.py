"""Faults of the entries and boxes of COCO files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from row import Row
from tiny import edit_coco, train_tiny

Edit = Callable[[dict[str, Any]], object]


def _train(folder: Path, edit: Edit) -> None:
    edit_coco(folder, edit)
    train_tiny(folder, "det")


def _drop(kind: str, key: str, index: int = 1) -> Edit:
    return lambda content: content[kind][index].pop(key)


def _set(kind: str, index: int | None = 1, **values: Any) -> Edit:
    """Put values into one entry, or into all."""

    def edit(content: dict[str, Any]) -> None:
        for entry in content[kind] if index is None else [content[kind][index]]:
            entry.update(values)

    return edit


def _box(*numbers: Any, index: int | None = 1) -> Edit:
    return _set("annotations", index, bbox=list(numbers))


def _train_masks(folder: Path, mask: Any, index: int | None = 1) -> None:
    """Train on objects of whole masks but for one, or for all."""

    def edit(content: dict[str, Any]) -> None:
        _set("annotations", None, segmentation=[[4, 4, 20, 4, 20, 20]])(content)
        _set("annotations", index, segmentation=mask)(content)

    edit_coco(folder, edit)
    load = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
    pipeline = [dict(type="LoadImageFromFile"), load, dict(type="PackDetInputs")]
    train_tiny(folder, "det", train_dataloader__dataset__pipeline=pipeline)


ENTRIES, BOXES, MASKS = (f"{what} of COCO files" for what in ("Entries", "Boxes", "Masks"))
NAN, INFINITY = float("nan"), float("inf")
ROWS = [
    Row(f"coco-{name}", section, fault, says, partial(_train, edit=edit))
    for section, cases in {
        ENTRIES: (
            *(
                (
                    f"no-{key.replace('_', '-')}",
                    f"an annotation without {key}",
                    f"1 annotation has no '{key}' .*1\\b",
                    _drop("annotations", key),
                )
                for key in ("bbox", "area", "iscrowd", "id", "image_id", "category_id")
            ),
            *(
                (
                    f"no-{key.replace('_', '-')}",
                    f"an image without {key}",
                    f"1 image has no '{key}' .*1",
                    _drop("images", key),
                )
                for key in ("file_name", "width", "height")
            ),
            (
                "same-id",
                "two annotations of one id",
                "2 annotations have an id that is not unique .*0: 2 times",
                _set("annotations", id=0),
            ),
            (
                "same-file",
                "two images of one file",
                r"2 images have a file_name that is not unique \('0\.png': 2 times\)",
                _set("images", file_name="0.png"),
            ),
            (
                "other-image",
                "an annotation of an image that is not there",
                "1 annotation has the image_id of no image .*99: 1 time",
                _set("annotations", image_id=99),
            ),
            (
                "other-images",
                "all annotations of images that are not there",
                "error: .*4 annotations have the image_id of no image",
                _set("annotations", None, image_id=99),
            ),
            (
                "crowds",
                "all objects are crowds",
                "error: .*all 4 annotations of .* have iscrowd=1",
                _set("annotations", None, iscrowd=1),
            ),
            (
                "other-category",
                "an annotation of a category that is not there",
                "1 annotation has the category_id of no category .*7: 1 time",
                _set("annotations", category_id=7),
            ),
            (
                "width-text",
                "the width of an image is text",
                "1 image has no positive number as 'width' .*'64'",
                _set("images", width="64"),
            ),
        ),
        BOXES: (
            ("text", "numbers as text", "four numbers as 'bbox' .*'4'", _box("4", 4, 9, 9)),
            ("three", "three numbers", "four numbers as 'bbox' .*4, 4, 9", _box(4, 4, 9)),
            ("nan", "NaN", "'bbox' that is not finite .*nan", _box(NAN, 4, 9, 9)),
            ("infinity", "Infinity", "'bbox' that is not finite .*inf", _box(4, 4, 9, INFINITY)),
            ("flat", "a height of 0", "1 annotation has a box below 1 pixel", _box(4, 4, 9, 0)),
            (
                "outside",
                "a box outside of its image",
                "1 annotation has a box outside the image .*80",
                _box(80, 4, 9, 9),
            ),
            (
                "all-outside",
                "all boxes outside of their images",
                "error: .*4 annotations have a box outside the image",
                _box(80, 4, 9, 9, index=None),
            ),
            (
                "corners",
                "two corners instead of corner and size",
                "1 annotation has a box that reaches over the edge .*width, height",
                _box(30, 30, 60, 60),
            ),
        ),
    }.items()
    for name, fault, says, edit in cases
]
ROWS += [
    Row(
        f"coco-mask-{name}",
        MASKS,
        fault,
        says,
        partial(_train_masks, mask=mask, index=None if "all" in name else 1),
    )
    for name, fault, says, mask in (
        (
            "points",
            "a polygon of two points",
            "1 annotation has a mask without pixels .*id 1",
            [[4, 4, 20, 20]],
        ),
        (
            "all-points",
            "polygons of two points in all objects",
            "error: .*4 annotations have a mask without pixels",
            [[4, 4, 20, 20]],
        ),
        ("none", "an object without mask", "1 of 4 annotations .* has no segmentation", []),
        ("text", "numbers of a polygon as text", "no list of numbers .*id 1", [["4"] * 6]),
        ("nan", "a polygon with NaN", "polygon that is not finite .*id 1", [[NAN] * 6]),
        ("far", "a polygon with 1e9", "far outside the image .*id 1", [[4, 4, 1e9, 4, 9, 9]]),
        (
            "cut",
            "run lengths cut short",
            "1 annotation has damaged run lengths .*id 1",
            dict(size=[64, 64], counts="0P1"),
        ),
        (
            "size",
            "run lengths of another image's size",
            "another size than the image .*32, 64",
            dict(size=[32, 64], counts=[4, 8, 2036]),
        ),
        (
            "empty",
            "run lengths without a pixel",
            "1 annotation has a mask without pixels",
            dict(size=[64, 64], counts=[4096]),
        ),
    )
]
