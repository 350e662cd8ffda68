"""Ground truth of a test image from the records of mmdet's datasets and data samples.

Test pipelines often load no annotations; the dataset's own records have them nevertheless.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.fileio import load
from numpy.typing import NDArray

from cropr_mm.inspection.audit.lost_objects import Objects, View

_DIRECTIONS = {
    "horizontal": (True, False),
    "vertical": (False, True),
    "diagonal": (True, True),
}
_META = ("img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")


def records_of(dataset: Any) -> dict[str, dict[str, Any]]:
    """Records of all images by their path.

    Those of mmdet's COCO datasets leave out the areas by which COCO's evaluation groups objects;
    here they come back from the annotation file, as 'area' of an instance.

    Args:
        dataset: A dataset with ``get_data_info``.
    """
    areas = _annotated_areas(dataset)
    records = {}
    for i in range(len(dataset)):
        record = dataset.get_data_info(i)
        for instance in record.get("instances") or ():
            key = (record.get("img_id"), instance.get("bbox_label"), *instance.get("bbox", ()))
            if key in areas:
                instance["area"] = areas[key]
        records[record["img_path"]] = record
    return records


def check_meta_keys(transforms: Sequence[Callable[[dict], Any]], record: Mapping[str, Any]) -> None:
    """Find out on one image whether a pipeline hands on what :func:`view_of` needs.

    Args:
        transforms: Of the test pipeline.
        record: Of the image.

    Raises:
        ValueError: If the pipeline knows something that its data samples will not hold.
    """
    results = dict(record)
    for transform in transforms:
        keys = getattr(transform, "meta_keys", None)
        if keys is None:
            results = transform(results)
            continue
        missing = [key for key in _META if key in results and key not in keys]
        if missing:
            raise ValueError(
                f"the audit reads {', '.join(missing)} of each data sample: expected it among the "
                f"meta_keys of {type(transform).__name__} in the test pipeline, got "
                f"meta_keys={tuple(keys)}"
            )
        return
    raise ValueError(
        "expected a test pipeline with PackDetInputs or another transform that has meta_keys, got "
        f"{[type(transform).__name__ for transform in transforms]}"
    )


def objects_of(info: Mapping[str, Any]) -> Objects:
    """Objects of an image, crowds left out.

    Args:
        info: Record of one image, one of :func:`records_of`. The area of an object is that of its
            annotation; where that is unknown its mask's pixels, or its box where it has no mask.

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
    areas = np.array([i.get("area", a) for i, a in zip(instances, areas, strict=True)], np.float64)
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


def _annotated_areas(dataset: Any) -> dict[tuple, float]:
    """Areas in the annotation file of a COCO dataset of mmdet; nothing for another dataset.

    Keys tell its objects apart: image, label and corners of the box.
    """
    labels = getattr(dataset, "cat2label", None)
    if labels is None:
        return {}
    content = load(dataset.ann_file, file_format="json", backend_args=dataset.backend_args)
    areas = {}
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        label = labels.get(annotation["category_id"])
        key = (annotation["image_id"], label, x, y, x + width, y + height)
        areas[key] = float(annotation["area"])
    return areas


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
