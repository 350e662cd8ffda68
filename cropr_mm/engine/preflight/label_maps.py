"""Checks of label maps, for semantic segmentation with mmseg.

mmseg notices labels outside the classes deep inside a loss, on accelerators without a word about
the labels, and never that a map has another size than its image.
"""

from typing import Any

import numpy as np

from cropr_mm.engine.preflight.data import built_datasets
from cropr_mm.engine.preflight.errors import SetupError

_NUM_READ = 16


def check_label_maps(dataset: Any, where: str) -> None:
    """Compare some label maps, evenly spaced over a dataset, with its classes and its images.

    Args:
        dataset: Built dataset. All but mmseg's (and wrappers of these) pass.
        where: Name of the dataset for the message.

    Raises:
        SetupError: If a map is missing, of another size than its image, or has labels that are
            neither a class nor the dataset's ``ignore_index``, or if none of them has a class.
    """
    for part in built_datasets(dataset):
        readers = [
            step
            for step in getattr(getattr(part, "pipeline", None), "transforms", ())
            if type(step).__name__ in ("LoadImageFromFile", "LoadAnnotations")
        ]
        classes = (getattr(part, "metainfo", None) or {}).get("classes")
        if not hasattr(part, "ignore_index") or not classes or len(readers) != 2:
            continue
        places = np.unique(np.linspace(0, len(part) - 1, _NUM_READ, dtype=int))
        labeled = [
            _check(part.get_data_info(int(i)), readers, len(classes), part.ignore_index, where)
            for i in places
        ]
        if not any(labeled):
            raise SetupError(
                f"{where}: expected pixels of its {len(classes)} classes, got {len(places)} label "
                f"maps of {part.ignore_index} (none) only; there is nothing to learn or to score"
            )


def _check(
    info: dict[str, Any], readers: list, num_classes: int, ignore_index: int, where: str
) -> bool:
    """Whether the map has a pixel of any class; raises as :func:`check_label_maps`."""
    path = info.get("seg_map_path")
    try:
        for reader in readers:
            info = reader(info)
    except FileNotFoundError as error:
        raise SetupError(f"{where}: {error}") from error
    labels = info["gt_seg_map"]
    size = info["img"].shape[:2]
    if labels.shape != size:
        raise SetupError(
            f"{where}: expected a label map of the image's size {size[0]}x{size[1]} (height, "
            f"width), got {'x'.join(map(str, labels.shape))} in {path}"
        )
    found = np.unique(labels)
    invalid = found[((found < 0) | (found >= num_classes)) & (found != ignore_index)]
    if len(invalid):
        raise SetupError(
            f"{where}: expected labels in [0, {num_classes - 1}], those of its {num_classes} "
            f"classes, or {ignore_index} for none, got {invalid.tolist()[:8]} in {path}"
        )
    return bool((found != ignore_index).any())
