"""Prune audit: what became of the objects of an image when tokens were dropped.

An object's *share* before a block is the share of it that lies in patches whose tokens this block
still sees: of the area of its box, and of the pixels of its mask. An object is *lost* before a
block when that share is 0: every patch that it touches was dropped. With a fusion the last block
sees all tokens again. A box without area inside its image has no share and counts nowhere.

n objects, L blocks, h x w patch grid; lengths in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
_LEAST = 1e-3  # pixels; a box that reaches less far into a patch does so by rounding
SIZES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""COCO's size groups: least and largest area in the original image, in square pixels. As there,
both belong to the group, so an object on a border is in two (pycocotools, cocoeval.py, areaRng)."""


class Objects(NamedTuple):
    """Ground truth of one image, in its original pixels; crowds are not objects.

    Attributes:
        boxes: x1, y1, x2, y2, shape (n, 4).
        labels: Class of each, shape (n,), int.
        areas: Area that decides the size group, in square pixels, shape (n,).
        masks: Shape (n, H, W), bool, or None where there are none.
    """

    boxes: Array
    labels: Array
    areas: Array
    masks: Array | None = None


class View(NamedTuple):
    """How an original image came to lie on the patch grid: resized, mirrored, padded at the end.

    Attributes:
        scale: Factors of width and height.
        img_shape: Height and width after resizing, without padding.
        flips: Whether it was mirrored left to right, and upside down.
        patch_size: Side of a patch.
    """

    scale: tuple[float, float]
    img_shape: tuple[int, int]
    flips: tuple[bool, bool]
    patch_size: int


class ImageAudit(NamedTuple):
    """What one image's objects went through; those of several images concatenate field by field.

    Attributes:
        labels: Class of each object, shape (n,).
        areas: Area that decides its size group, shape (n,).
        box_shares: Share of its box that each block sees, shape (n, L), NaN where the box has no
            area inside the image.
        mask_shares: Share of its mask's pixels that each block sees, shape (n, L), NaN where an
            object has no mask pixel.
        pixels: Pixels of its mask, shape (n,); 0 without mask.
        patches: Patches that each block sees, one row an image, shape (1, L).
    """

    labels: Array
    areas: Array
    box_shares: Array
    mask_shares: Array
    pixels: Array
    patches: Array


def seen_by_block(
    left_after: Tensor, depth: int, sites: Mapping[int, str], num_restored: int
) -> NDArray[np.bool_]:
    """Which patches each block sees.

    Args:
        left_after: Block (0-based) whose reducer dropped each patch, -1 where it stayed, shape
            (B, h, w), int64; see :class:`cropr_mm.inspection.recorder.PruningRecorder`.
        depth: L.
        sites: Where in its block each reducer acts: 'before', 'between' or 'after'.
        num_restored: Last blocks that see all tokens again.

    Returns:
        Shape (B, L, h, w).
    """
    last = torch.full_like(left_after, depth - 1)  # the last block that sees the patch
    for block, site in sites.items():
        last[left_after == block] = block - 1 if site == "before" else block
    blocks = torch.arange(depth, device=last.device).view(1, -1, 1, 1)
    seen = last[:, None] >= blocks
    seen[:, depth - num_restored :] = True
    return seen.cpu().numpy()


def audit_image(seen: NDArray[np.bool_], objects: Objects, view: View) -> ImageAudit:
    """Shares of one image's objects that each block sees.

    Args:
        seen: Which patches each block sees, shape (L, h, w).
        objects: Ground truth in original pixels. A mask counts by its original pixels: each lies in
            the patch that holds its center after resizing.
        view: Way from the original image to the patch grid.

    Raises:
        ValueError: If the resized image is larger than the grid.
    """
    grid = seen.shape[1:]
    if any(side > n * view.patch_size for side, n in zip(view.img_shape, grid, strict=True)):
        raise ValueError(
            f"expected an image within {grid[0]}x{grid[1]} patches of {view.patch_size} pixels, "
            f"got {view.img_shape[0]}x{view.img_shape[1]}"
        )
    count, depth = len(objects.labels), len(seen)
    box_shares = np.full((count, depth), np.nan)
    mask_shares = np.full((count, depth), np.nan)
    pixels = np.zeros(count, np.int64)
    for i in range(count):
        weights = _box_weights(objects.boxes[i], view, grid)
        if weights.sum():
            box_shares[i] = _share(seen, weights)
        if objects.masks is not None and objects.masks[i].any():
            weights = _mask_weights(objects.masks[i], view, grid)
            mask_shares[i] = _share(seen, weights)
            pixels[i] = int(weights.sum())
    return ImageAudit(
        labels=np.asarray(objects.labels),
        areas=np.asarray(objects.areas),
        box_shares=box_shares,
        mask_shares=mask_shares,
        pixels=pixels,
        patches=seen.sum((1, 2))[None],
    )


def summarize_audit(images: Sequence[ImageAudit], classes: Sequence[str]) -> dict[str, Any]:
    """Means over objects, by size and by class.

    Args:
        images: Of all images, each with the same number of blocks.
        classes: Names of the labels.

    Returns:
        Plain types for JSON: 'all', 'size' and 'class' (those that occur), each with the number of
        ``boxes``, ``boxes_left_out`` (without area) and ``masks`` and, per block (0-based):
        ``boxes_lost`` and ``masks_lost``, shares of objects that are lost; ``box_area_pruned``,
        mean over boxes; ``mask_pixels_pruned``, share of all mask pixels. None where there is no
        object. 'patch_tokens' has the mean, least and most patches that each block saw in an image.

    Raises:
        ValueError: If there is no box with an area at all.
    """
    whole = ImageAudit(*map(np.concatenate, zip(*images, strict=True)))
    if not np.isfinite(whole.box_shares).any():
        raise ValueError(
            "expected ground-truth boxes with an area inside their image to audit, got none in "
            f"{len(images)} images"
        )
    areas, labels = whole.areas, sorted(set(whole.labels.tolist()))
    return {
        "all": _group(whole, np.full(len(areas), True)),
        "size": {
            name: _group(whole, (least <= areas) & (areas <= most))
            for name, (least, most) in SIZES.items()
        },
        "class": {classes[label]: _group(whole, whole.labels == label) for label in labels},
        "patch_tokens": {
            "mean": whole.patches.mean(0).tolist(),
            "least": whole.patches.min(0).tolist(),
            "most": whole.patches.max(0).tolist(),
        },
    }


def _group(audit: ImageAudit, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    has_area = chosen & np.isfinite(audit.box_shares).all(1)
    boxes = audit.box_shares[has_area]
    has_mask = chosen & (audit.pixels > 0)
    masks, pixels = audit.mask_shares[has_mask], audit.pixels[has_mask]
    group: dict[str, Any] = {
        "boxes": len(boxes),
        "boxes_left_out": int(chosen.sum() - has_area.sum()),
        "masks": len(masks),
    }
    names = ("boxes_lost", "box_area_pruned", "masks_lost", "mask_pixels_pruned")
    shares: dict[str, list[float] | None] = dict.fromkeys(names)
    if len(boxes):
        shares["boxes_lost"] = (boxes == 0).mean(0).tolist()
        shares["box_area_pruned"] = (1 - boxes).mean(0).tolist()
    if len(masks):
        shares["masks_lost"] = (masks == 0).mean(0).tolist()
        shares["mask_pixels_pruned"] = (1 - np.average(masks, axis=0, weights=pixels)).tolist()
    return group | shares


def _share(seen: NDArray[np.bool_], weights: Array) -> Array:
    """Share of the weights (h, w) at patches that each block sees, shape (L,); exact 0 and 1."""
    touched = weights > 0
    seen, weights = seen[:, touched], weights[touched]
    shares = np.where(seen, weights, 0).sum(1) / weights.sum()
    return np.where(seen.all(1), 1.0, shares)


def _box_weights(box: Array, view: View, grid: tuple[int, ...]) -> Array:
    """Area of a box inside each patch, shape (h, w)."""
    x1, y1, x2, y2 = map(float, box)
    columns = _overlap(_moved((x1, x2), view, 0), view.patch_size, grid[1])
    rows = _overlap(_moved((y1, y2), view, 1), view.patch_size, grid[0])
    return np.outer(rows, columns)


def _overlap(ends: tuple[float, float], patch_size: int, count: int) -> Array:
    """Length of an interval inside each of ``count`` patches, shape (count,)."""
    edges = np.arange(count + 1) * float(patch_size)
    overlap = np.minimum(ends[1], edges[1:]) - np.maximum(ends[0], edges[:-1])
    return np.where(overlap > _LEAST, overlap, 0.0)


def _moved(ends: tuple[float, float], view: View, axis: int) -> tuple[float, float]:
    """An interval on the x axis (0) or y axis (1) after resizing, clipping and mirroring."""
    length = view.img_shape[1 - axis]
    low, high = (min(max(end * view.scale[axis], 0.0), length) for end in ends)
    return (length - high, length - low) if view.flips[axis] else (low, high)


def _mask_weights(mask: NDArray[np.bool_], view: View, grid: tuple[int, ...]) -> Array:
    """Pixels of a mask (H, W) in each patch, shape (h, w)."""
    rows = _patch_of(mask.shape[0], view, 1, grid[0])
    columns = _patch_of(mask.shape[1], view, 0, grid[1])
    y, x = np.nonzero(mask)
    return np.bincount(rows[y] * grid[1] + columns[x], minlength=grid[0] * grid[1]).reshape(grid)


def _patch_of(length: int, view: View, axis: int, count: int) -> NDArray[np.int64]:
    """Patch row or column that holds the center of each original pixel row or column."""
    place = (np.arange(length) + 0.5) * view.scale[axis]
    if view.flips[axis]:
        place = view.img_shape[1 - axis] - place
    return np.clip(place // view.patch_size, 0, count - 1).astype(np.int64)
