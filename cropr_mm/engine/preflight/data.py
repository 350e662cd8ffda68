"""Checks of a config's data.

Host libraries meet many mistakes in silence or deep inside a data loader: mmdet drops categories
that it cannot match, mmseg lists a folder where its split file is missing.
"""

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from cropr_mm.engine.preflight.coco import (
    Read,
    check_coco,
    check_multi_label,
    check_truth,
    read_coco,
)
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.images import check_images

# Subclasses that read their files in another way have their own rules.
CHECKED_READERS = ("CocoDataset.load_data_list", "CocoMultiLabelDataset.load_data_list")
_COCO_METRICS = ("CocoMetric", "mmdet.CocoMetric")


def check_data(cfg: Mapping[str, Any], splits: Iterable[str]) -> None:
    """Check the files behind a config's data loaders and evaluators.

    Args:
        cfg: Config with ``<split>_dataloader`` and ``<split>_evaluator``; the default scope is set.
        splits: Of 'train', 'val' and 'test'; a split without data loader is skipped.

    Raises:
        SetupError: If an annotation file is missing, empty or damaged, an image folder is missing,
            there is no image, the classes of a COCO json are not those of the dataset, or it lacks
            masks that are loaded or scored.
    """
    # The file of a split's data set is mostly that of its evaluator too.
    read = lru_cache(maxsize=1)(read_coco)
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        if not loader:
            continue
        evaluators = cfg.get(f"{split}_evaluator") or []
        evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators
        scored = any("segm" in (e.get("metric") or ()) for e in evaluators if hasattr(e, "get"))
        seen = []
        for dataset in leaves(loader["dataset"]):
            masks = scored or any(t.get("with_mask") for t in annotation_loaders(dataset))
            seen.append(_check_dataset(dataset, f"{split}_dataloader", masks, read))
        for evaluator in evaluators:
            if isinstance(evaluator, Mapping) and _names_disk(evaluator):
                file = evaluator.get("ann_file")
                _check_file(file, f"{split}_evaluator")
                if file and evaluator.get("type") in _COCO_METRICS:
                    masks = "segm" in (evaluator.get("metric") or ())
                    check_truth(file, f"{split}_evaluator", masks, read, file in seen)


@contextmanager
def loading(cfg: Mapping[str, Any], split: str) -> Iterator[None]:
    """Turn the obscure failure of an empty dataset while it is built into a clear one.

    Args:
        cfg: Config whose data loader is built inside the block.
        split: 'train', 'val' or 'test'.

    Raises:
        SetupError: If no image is left after filtering.
    """
    try:
        yield
    except ValueError as error:
        # numpy's complaint when mmengine serializes an empty list.
        if "at least one array" not in str(error):
            raise
        raise SetupError(_no_image(cfg, split)) from error


def check_length(loader: Any, cfg: Mapping[str, Any], split: str) -> None:
    """Raise SetupError if a built data loader has no image, or drops all of them."""
    dataset = loader.dataset
    if not hasattr(dataset, "__len__"):
        return
    if len(dataset) == 0:
        raise SetupError(_no_image(cfg, split))
    endless = "Infinite" in type(loader.sampler).__name__
    if getattr(loader, "drop_last", False) and not endless and len(loader) == 0:
        raise SetupError(
            f"{split}_dataloader: drop_last=True drops every image: expected a batch_size up to "
            f"{len(loader.sampler)}, the images of a process, got {loader.batch_size}"
        )


def _no_image(cfg: Mapping[str, Any], split: str) -> str:
    sources = [
        f"ann_file={leaf.get('ann_file', '')!r}, data_prefix={leaf.get('data_prefix')}, "
        f"filter_cfg={leaf.get('filter_cfg')}"
        + (f", img_suffix={leaf['img_suffix']!r}" if "img_suffix" in leaf else "")
        for leaf in leaves(cfg[f"{split}_dataloader"]["dataset"])
    ]
    return f"{split}_dataloader: expected at least one image after filtering, got none from " + (
        "; ".join(sources)
    )


def leaves(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Configs of datasets inside wrappers such as ConcatDataset and RepeatDataset."""
    if isinstance(dataset, Mapping) and "dataset" in dataset:
        yield from leaves(dataset["dataset"])
    elif isinstance(dataset, Mapping) and "datasets" in dataset:
        for part in dataset["datasets"]:
            yield from leaves(part)
    elif isinstance(dataset, Mapping):
        yield dataset


def built_datasets(dataset: Any) -> Iterator[Any]:
    """Built datasets inside wrappers such as ConcatDataset and RepeatDataset."""
    parts = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    if parts == [None]:
        yield dataset
        return
    for part in parts:
        yield from built_datasets(part)


def annotation_loaders(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Transforms of a dataset's pipeline that load annotations as mmdet's ``LoadAnnotations``."""
    pipeline = dataset.get("pipeline") or []
    kinds = ("LoadAnnotations", "mmdet.LoadAnnotations")
    return [step for step in pipeline if hasattr(step, "get") and step.get("type") in kinds]


def lazy_dataset(cfg: Mapping[str, Any]) -> Any:
    """Data set of a config, without its samples; None if it is not mmengine's or not local."""
    kind = cfg["type"]
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if not inspect.isclass(kind) or not issubclass(kind, BaseDataset) or not _names_disk(cfg):
        return None
    # The library's own rules join its paths; the pipeline is not needed for that.
    return DATASETS.build({**cfg, "lazy_init": True, "pipeline": []})


def _check_dataset(cfg: Mapping[str, Any], where: str, masks: bool, read: Read) -> str | None:
    """Check the files of one data set; returns the COCO json among them."""
    dataset = lazy_dataset(cfg)
    if dataset is None:
        return None
    _check_file(dataset.ann_file, where)
    for key, folder in (dataset.data_prefix or {}).items():
        given = cfg.get("data_prefix")
        named = bool(given.get(key)) if isinstance(given, Mapping) else bool(given)
        if named and not os.path.exists(folder):
            raise SetupError(
                f"{where}: expected a folder for data_prefix {key!r}, found none at {folder}"
            )
    reader = dataset.load_data_list.__qualname__
    if reader not in CHECKED_READERS:
        return None
    of_boxes = reader == CHECKED_READERS[0]
    if of_boxes and dataset.COCOAPI.__name__ == "COCOPanoptic":  # lists segments by image
        return None
    images = (
        check_coco(dataset, where, masks, read) if of_boxes else check_multi_label(dataset, where)
    )
    check_images(images, Findings(where, dataset.ann_file), _color_type(cfg))
    return dataset.ann_file if of_boxes else None


def _color_type(dataset: Mapping[str, Any]) -> str | None:
    """How the pipeline of a data set reads images; None if by a transform of its own."""
    kinds = ("LoadImageFromFile", "mmdet.LoadImageFromFile", "mmcv.LoadImageFromFile")
    for step in dataset.get("pipeline") or []:
        if hasattr(step, "get") and step.get("type") in kinds:
            return step.get("color_type", "color")
    return None


def _names_disk(cfg: Mapping[str, Any]) -> bool:
    """Whether the config of a data set or evaluator names files of this machine."""
    return (cfg.get("backend_args") or {}).get("backend", "local") == "local"


def _check_file(path: Any, where: str) -> None:
    if not isinstance(path, str) or not path or "://" in path:
        return
    if not os.path.isfile(path):
        raise SetupError(f"{where}: expected an annotation file, found none at {path}")
    if os.path.getsize(path) == 0:
        raise SetupError(f"{where}: expected annotations, but {path} is empty (0 bytes)")
