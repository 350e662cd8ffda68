"""Ground truth of a test image from the records of mmdet's datasets and data samples.

Test pipelines often load no annotations; the dataset's own records have them nevertheless.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cropr_mm.analysis.audit import Objects, View

_DIRECTIONS = {
    "horizontal": (True, False),
    "vertical": (False, True),
    "diagonal": (True, True),
}


def objects_of(info: Mapping[str, Any]) -> Objects:
    """Objects of an image, crowds left out.

    Args:
        info: Record of one image, ``dataset.get_data_info(i)``. Areas are those of masks, as in
            COCO, or of boxes where an object has none.

    Raises:
        ValueError: If the record holds no list of instances with boxes.
    """
    instances = info.get("instances")
    if instances is None or any("bbox" not in instance for instance in instances):
        raise ValueError(
            "expected a test dataset whose records have 'instances' with 'bbox', as mmdet's "
            f"detection datasets do, got {sorted(info)}"
        )
    instances = [instance for instance in instances if not instance.get("ignore_flag", 0)]
    boxes = np.array([i["bbox"] for i in instances], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    masks = None
    if any(instance.get("mask") for instance in instances):
        shape = (info["height"], info["width"])
        masks = np.stack([_decoded(instance.get("mask"), shape) for instance in instances])
        pixels = masks.sum((1, 2))
        areas = np.where(pixels > 0, pixels, areas)
    labels = np.array([i["bbox_label"] for i in instances], np.int64)
    return Objects(boxes, labels, areas, masks)


def view_of(metainfo: Mapping[str, Any], patch_size: int) -> View:
    """How an image came to lie on the patch grid.

    Args:
        metainfo: Of its data sample: ``ori_shape``, ``img_shape`` and, where they differ,
            ``scale_factor``; ``flip`` and ``flip_direction`` where it was mirrored.
        patch_size: Side of a patch, in pixels.

    Raises:
        ValueError: If something is missing, or the image was cropped or padded by the pipeline.
    """
    original, resized = metainfo.get("ori_shape"), metainfo.get("img_shape")
    if original is None or resized is None:
        raise ValueError(
            "expected ori_shape and img_shape among the meta_keys of the test pipeline, got "
            f"{sorted(metainfo)}"
        )
    width_scale, height_scale = tuple(metainfo.get("scale_factor") or (1.0, 1.0))[:2]
    expected = (original[0] * height_scale, original[1] * width_scale)
    if any(abs(a - b) > 1 for a, b in zip(expected, resized[:2], strict=True)):
        raise ValueError(
            "expected a test pipeline that resizes and flips only (the data preprocessor may pad) "
            f"and names its scale_factor; got {original[0]}x{original[1]} pixels that became "
            f"{resized[0]}x{resized[1]} at scale_factor {metainfo.get('scale_factor')}"
        )
    flips = (False, False)
    if metainfo.get("flip"):
        flips = _DIRECTIONS[metainfo.get("flip_direction") or "horizontal"]
    return View((width_scale, height_scale), (resized[0], resized[1]), flips, patch_size)


def _decoded(mask: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Polygons or a run-length code of COCO as pixels; nothing is an empty mask."""
    from pycocotools import mask as coco_mask  # comes with mmdet, other hosts do without

    if not mask:
        return np.zeros(shape, bool)
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, *shape))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, *shape)
    return coco_mask.decode(mask).astype(bool)
