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


ENTRIES, BOXES = "Entries of COCO files", "Boxes of COCO files"
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
