"""Checks of the masks of a COCO json.

mmdet takes objects without a polygon of three points for crowds, without a word. pycocotools never
returns from polygons with NaN, and fills masks with too few runs from memory that nobody wrote.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from cropr_mm.engine.preflight.coco_entries import place
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.json_numbers import as_numbers
from cropr_mm.engine.preflight.run_lengths import decode_runs

_FAR = 10  # times the image's size; polygons are drawn point by point, to their end


def check_instance_masks(
    annotations: Sequence[Mapping[str, Any]],
    sizes: Mapping[Any, tuple[float, float]],
    findings: Findings,
) -> None:
    """Note masks that cannot be drawn, and count those that have no pixel.

    Args:
        annotations: Annotations with a 'segmentation', of images that there are.
        sizes: Width and height of each image in pixels, by id.
        findings: Where errors and warnings are noted. Masks without pixels are an error if all are.
    """
    entries = [(entry, i) for i, entry in enumerate(annotations)]
    polygons = [(e, i) for e, i in entries if isinstance(e["segmentation"], list)]
    runs = [(e, i) for e, i in entries if _is_run_length(e["segmentation"])]
    known = {i for _, i in (*polygons, *runs)}
    findings.error(
        "annotation",
        "has a 'segmentation' that is no mask",
        [place(entry, i) for entry, i in entries if i not in known],
        "expected a list of polygons, or a dict of size and counts",
    )
    empty = _check_polygons(polygons, sizes, findings)
    empty += _check_runs(runs, sizes, findings)
    note = findings.error if len(empty) == len(annotations) else findings.warn
    note(
        "annotation",
        "has a mask without pixels",
        empty,
        "expected polygons of three points or more ([x1, y1, x2, y2, x3, y3, ...]) with an area; "
        "mmdet leaves out other objects",
    )


def _check_polygons(
    entries: Sequence[tuple[Mapping[str, Any], int]],
    sizes: Mapping[Any, tuple[float, float]],
    findings: Findings,
) -> list[str]:
    """Names of annotations none of whose polygons has an area."""
    flat = [(polygon, k) for k, (e, _) in enumerate(entries) for polygon in e["segmentation"]]
    lengths = np.array([len(p) if isinstance(p, list) else 0 for p, _ in flat], dtype=int)
    owner = np.array([k for _, k in flat], dtype=int)
    broken = np.array([not isinstance(p, list) for p, _ in flat], dtype=bool)
    values = list(chain.from_iterable(p for p, _ in flat if isinstance(p, list)))
    points, text = as_numbers(values)
    polygon = np.repeat(np.arange(len(flat)), lengths)
    broken[polygon[text]] = True

    def named(which: np.ndarray) -> list[str]:
        return [place(*entries[k]) for k in np.unique(owner[which]).tolist()]

    size = np.array([max(sizes[e["image_id"]]) for e, _ in entries], dtype=float)
    infinite, far = np.zeros_like(broken), np.zeros_like(broken)
    infinite[polygon[~np.isfinite(points)]] = True
    far[polygon[np.abs(points) > _FAR * size[owner][polygon]]] = True
    findings.error("annotation", "has a polygon that is no list of numbers", named(broken))
    findings.error("annotation", "has a polygon that is not finite", named(infinite))
    findings.error(
        "annotation", "has a polygon far outside the image", named(far & ~infinite & ~broken)
    )
    whole = ~broken & ~infinite & (lengths % 2 == 0) & (lengths >= 6)
    whole[whole] = _areas(points[whole[polygon]].reshape(-1, 2), lengths[whole] // 2) > 0
    filled = np.zeros(len(entries), dtype=bool)
    filled[owner[whole | broken | infinite]] = True  # the latter are said above
    return [place(*entries[k]) for k in np.flatnonzero(~filled).tolist()]


def _areas(points: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Area of each polygon in pixels, shape (polygons,).

    Args:
        points: x and y of all points, those of a polygon together, shape (points, 2).
        lengths: Number of points of each polygon, shape (polygons,).
    """
    if not len(lengths):
        return np.zeros(0)
    starts = np.cumsum(lengths) - lengths
    following = np.arange(len(points)) + 1
    following[starts + lengths - 1] = starts
    (x, y), (next_x, next_y) = points.T, points[following].T
    return np.abs(np.add.reduceat(x * next_y - next_x * y, starts)) / 2


def _check_runs(
    entries: Sequence[tuple[Mapping[str, Any], int]],
    sizes: Mapping[Any, tuple[float, float]],
    findings: Findings,
) -> list[str]:
    """Names of annotations whose run lengths are whole and set no pixel."""
    masks = [entry["segmentation"] for entry, _ in entries]
    pixels, filled = np.zeros(len(masks), dtype=int), np.zeros(len(masks), dtype=int)
    texts = [k for k, mask in enumerate(masks) if isinstance(mask["counts"], str)]
    pixels[texts], filled[texts] = decode_runs([masks[k]["counts"] for k in texts])
    for k, mask in enumerate(masks):
        if isinstance(mask["counts"], list):
            counts = mask["counts"]
            whole = all(type(count) is int and count >= 0 for count in counts)
            pixels[k], filled[k] = (sum(counts), sum(counts[1::2])) if whole else (-1, -1)
    wanted = [[sizes[e["image_id"]][1], sizes[e["image_id"]][0]] for e, _ in entries]
    other = [k for k, mask in enumerate(masks) if list(mask["size"]) != wanted[k]]
    findings.error(
        "annotation",
        "has a mask of another size than the image",
        [f"{place(*entries[k])}: {masks[k]['size']} for {wanted[k]}" for k in other],
        "expected size=[height, width]",
    )
    area = np.array([height * width for height, width in wanted], dtype=int)
    broken = pixels != area
    broken[other] = False
    findings.error(
        "annotation",
        "has damaged run lengths",
        [place(*entries[k]) for k in np.flatnonzero(broken).tolist()],
        "expected counts whose sum is height * width",
    )
    return [place(*entries[k]) for k in np.flatnonzero((filled == 0) & ~broken).tolist()]


def _is_run_length(mask: Any) -> bool:
    return (
        isinstance(mask, dict)
        and isinstance(mask.get("counts"), str | list)
        and isinstance(mask.get("size"), list)
    )
