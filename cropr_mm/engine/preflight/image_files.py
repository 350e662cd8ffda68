"""The files of a built data set, whichever library it is of."""

from typing import Any

import numpy as np

from cropr_mm.engine.preflight.data import CHECKED_READERS, built_datasets
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.images import ImageFile, check_exist, check_images


def check_files(dataset: Any, where: str) -> None:
    """Check that all images and label maps are there, and open some images.

    COCO files pass, as mmdet and ``CocoMultiLabelDataset`` read them: their images are checked
    before the model is built.

    Args:
        dataset: Built dataset; those without local image files pass.
        where: Name of the dataset for the message.

    Raises:
        SetupError: As :func:`check_images`, or if label maps are missing.
    """
    for part in built_datasets(dataset):
        transforms = getattr(getattr(part, "pipeline", None), "transforms", ())
        readers = [step for step in transforms if type(step).__name__ == "LoadImageFromFile"]
        reader = getattr(getattr(part, "load_data_list", None), "__qualname__", "")
        if len(readers) != 1 or reader in CHECKED_READERS or not _reads_disk(part):
            continue
        if "img_path" not in part.get_data_info(0):
            continue
        findings = Findings(where, getattr(part, "ann_file", "") or _folder(part))
        infos = [part.get_data_info(int(i)) for i in _places(part)]
        maps = [info["seg_map_path"] for info in infos if info.get("seg_map_path")]
        check_exist(maps, findings, "label map")
        images = [ImageFile(info["img_path"], _size(info)) for info in infos]
        check_images(images, findings, getattr(readers[0], "color_type", "color"))


def _places(dataset: Any) -> np.ndarray:
    """All samples, or some where the data set found its files itself, by listing folders."""
    listed = not getattr(dataset, "ann_file", None) and "seg_map_path" not in (
        dataset.get_data_info(0)
    )
    number = min(len(dataset), 64) if listed else len(dataset)
    return np.unique(np.linspace(0, len(dataset) - 1, number, dtype=int))


def _size(info: dict[str, Any]) -> tuple[float, float] | None:
    return (info["width"], info["height"]) if "width" in info and "height" in info else None


def _folder(dataset: Any) -> str:
    prefix = getattr(dataset, "data_prefix", None) or {}
    return str(prefix.get("img_path", "") if isinstance(prefix, dict) else prefix)


def _reads_disk(dataset: Any) -> bool:
    """Whether a built data set reads files of this machine."""
    settings = getattr(dataset, "backend_args", None) or {}
    return settings.get("backend", "local") == "local"
