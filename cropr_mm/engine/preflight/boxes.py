"""Checks of the boxes of a COCO json.

mmdet drops boxes below one pixel, outside of their image or with an area of 0 without a word, and
numbers that are infinite end the process inside of mmcv's roi_align.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cropr_mm.engine.preflight.coco_entries import place
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.json_numbers import as_numbers

_TOLERANCE = 1.0  # pixels that rounding may put a box over the edge
_FORM = "expected [x, y, width, height] in pixels"
_DROPPED = "mmdet leaves out such boxes"


def check_boxes(
    annotations: Sequence[Mapping[str, Any]],
    sizes: Mapping[Any, tuple[float, float]],
    findings: Findings,
) -> None:
    """Note boxes with numbers that are none, and count those that mmdet drops.

    Args:
        annotations: Annotations with all keys, of images and categories that there are.
        sizes: Width and height of each image in pixels, by id.
        findings: Where errors and warnings are noted. Dropped boxes are an error if all are.
    """
    boxes, text = as_numbers([annotation["bbox"] for annotation in annotations], 4)
    areas, no_area = as_numbers([annotation["area"] for annotation in annotations])
    crowd = np.array([a.get("iscrowd", 0) not in (0, 1) for a in annotations], dtype=bool)
    infinite = ~np.isfinite(boxes).all(1) & ~text

    def named(which: Any, key: str) -> list[str]:
        entries = [(annotations[i], i) for i in np.flatnonzero(which).tolist()]
        return [f"{place(entry, i)}: {entry[key]!r}" for entry, i in entries]

    findings.error("annotation", "has no four numbers as 'bbox'", named(text, "bbox"), _FORM)
    findings.error("annotation", "has a 'bbox' that is not finite", named(infinite, "bbox"))
    wrong_area = no_area | ~np.isfinite(areas)
    findings.error("annotation", "has no finite number as 'area'", named(wrong_area, "area"))
    findings.error("annotation", "has neither 0 nor 1 as 'iscrowd'", named(crowd, "iscrowd"))
    if (text | infinite | wrong_area).any() or not len(boxes):
        return
    size = np.array([sizes[annotation["image_id"]] for annotation in annotations], dtype=float)
    first, last = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    small = (boxes[:, 2:] < 1).any(1)
    outside = ~small & ((np.minimum(last, size) - np.maximum(first, 0)) <= 0).any(1)
    empty = (areas <= 0) & ~small & ~outside
    note = findings.error if (small | outside | empty).all() else findings.warn
    note("annotation", "has a box below 1 pixel", named(small, "bbox"), _DROPPED)
    note("annotation", "has a box outside the image", named(outside, "bbox"), _DROPPED)
    note("annotation", "has an 'area' of 0 or less", named(empty, "area"), _DROPPED)
    over = ((first < -_TOLERANCE) | (last > size + _TOLERANCE)).any(1)
    findings.warn(
        "annotation",
        "has a box that reaches over the edge of the image",
        named(over & ~small & ~outside, "bbox"),
        _FORM,
    )
