"""Checks of label maps, for semantic segmentation with mmseg.

mmseg notices labels outside the classes deep inside a loss, on accelerators without a word about
the labels, and never that a map has another size than its image or lacks a class.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from cropr_mm.engine.preflight.data import built_datasets
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.sample_errors import NamedLoading
from cropr_mm.messages import counted, some

_NUM_READ = 16
_NUM_READ_IN_DOUBT = 256


def check_label_maps(dataset: Any, where: str) -> frozenset[int]:
    """Compare some label maps, evenly spaced over a dataset, with its classes and its images.

    Classes that none of them has are warned of.

    Args:
        dataset: Built dataset. All but mmseg's (and wrappers of these) pass.
        where: Name of the dataset for the message.

    Returns:
        Labels that these maps have when they are loaded.

    Raises:
        SetupError: If a map is missing, damaged, of another size than its image, or has labels that
            are neither a class nor the dataset's ``ignore_index``, if none of them has a class, or
            if the maps of two classes have 0 and 255 only.
    """
    labels: set[int] = set()
    for part in built_datasets(dataset):
        readers = [
            step
            for step in getattr(getattr(part, "pipeline", None), "transforms", ())
            if type(step).__name__ in ("LoadImageFromFile", "LoadAnnotations")
        ]
        classes = (getattr(part, "metainfo", None) or {}).get("classes")
        if not hasattr(part, "ignore_index") or not classes or len(readers) != 2:
            continue
        _check_zero_label(part, readers, where)
        maps = _read_some(part, readers, _NUM_READ, where)
        if _are_0_and_255(maps, part):  # or the second class is rare
            maps = _read_some(part, readers, _NUM_READ_IN_DOUBT, where)
        _check_classes(maps, classes, part, where)
        labels.update(*maps)
    return frozenset(labels)


def _check_zero_label(dataset: Any, readers: list, where: str) -> None:
    """Only the dataset says whether labels are counted from 1."""
    for reader in readers:
        given = getattr(reader, "reduce_zero_label", None)
        if given is not None and given != dataset.reduce_zero_label:
            raise SetupError(
                f"{where}: LoadAnnotations has reduce_zero_label={given}, but its dataset has "
                f"{dataset.reduce_zero_label}: set it in the dataset, and not in the pipeline"
            )


def _read_some(dataset: Any, readers: list, number: int, where: str) -> list[set[int]]:
    """Labels of maps evenly spaced over a dataset; raises as :func:`check_label_maps`."""
    places = np.unique(np.linspace(0, len(dataset) - 1, number, dtype=int))
    load, classes = NamedLoading(readers), dataset.metainfo["classes"]
    return [
        _read(dataset.get_data_info(int(i)), load, len(classes), dataset.ignore_index, where)
        for i in places
    ]


def _read(
    info: dict[str, Any], load: NamedLoading, num_classes: int, ignore_index: int, where: str
) -> set[int]:
    """Labels of one map; raises as :func:`check_label_maps`."""
    path = info.get("seg_map_path")
    try:
        loaded = load(info)
    except SetupError as error:
        raise SetupError(f"{where}: {error}") from error
    if loaded is None:
        return set()
    labels = loaded["gt_seg_map"]
    size = loaded["img"].shape[:2]
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
    return set(found.tolist())


def _are_0_and_255(maps: Sequence[set[int]], dataset: Any) -> bool:
    """Whether maps of two classes look like masks for the eye."""
    labels = set().union(*maps)
    two = len(dataset.metainfo["classes"]) == 2
    return two and labels == {0, 255} and not dataset.reduce_zero_label


def _check_classes(
    maps: Sequence[set[int]], classes: Sequence[str], dataset: Any, where: str
) -> None:
    """All classes are in some map."""
    labels = set().union(*maps)
    if not labels - {dataset.ignore_index}:
        raise SetupError(
            f"{where}: expected pixels of its {len(classes)} classes, got {len(maps)} label "
            f"maps of {dataset.ignore_index} (none) only; there is nothing to learn or to score"
        )
    if _are_0_and_255(maps, dataset):
        number = sum(255 in labels for labels in maps)
        raise SetupError(
            f"{where}: class {classes[1]!r} (label 1) is in none of the {len(maps)} label maps "
            f"looked at, and 255, which is ignored, is in {number}: are these masks of 0 and 255? "
            "Expected 0 and 1"
        )
    missing = [f"{name!r} ({i})" for i, name in enumerate(classes) if i not in labels]
    if missing:
        warnings.warn(
            f"{where}: {counted(len(missing), 'class', 'is')} in none of the "
            f"{counted(len(maps), 'label map')} looked at: {some(missing)}",
            stacklevel=2,
        )
