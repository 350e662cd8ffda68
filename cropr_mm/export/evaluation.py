"""The config's metrics on test images: of an exported model beside those of PyTorch."""

import copy
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from cropr_mm.engine.config import require_entries
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.preflight import SetupError, check_data
from cropr_mm.export.hosts import detections_of
from cropr_mm.export.matching import unmatched
from cropr_mm.export.runtime import ExportedModel
from cropr_mm.export.runtime.results import Result
from cropr_mm.export.source import Source


@dataclass(frozen=True)
class Metrics:
    """Metrics of both sides on the same images.

    Attributes:
        images: How many.
        pytorch: By name, as the config's evaluator gives them, of the host library's test step.
        exported: The same of the exported model.
        points: Largest difference of a metric, in points of 100.
        detections: Of both sides in all images.
        unmatched: Those that the other side has not, see :class:`.limits.Limits`.
    """

    images: int
    pytorch: Mapping[str, float]
    exported: Mapping[str, float]
    points: float
    detections: int = 0
    unmatched: int = 0

    def __str__(self) -> str:
        width = max(map(len, self.pytorch))
        lines = [f"metrics     on {self.images} test images, PyTorch's and the file's"]
        for name, value in self.pytorch.items():
            lines.append(f"  {name.ljust(width)}  {value:10.4f}  {self.exported[name]:10.4f}")
        if self.detections:
            lines.append(f"  {self.detections} detections, {self.unmatched} of one side only")
        return "\n".join(lines)


class TestSet:
    """Some images of a config's test set, and its evaluator.

    Args:
        cfg: Of the model.
        number: Images, spread evenly over the set; all where it has fewer.
        img_size: Height and width that ``Resize`` aims at in the place of its own scale, or None.

    Raises:
        SetupError: If data or evaluator are missing or do not fit.
    """

    __test__ = False  # no class of tests

    def __init__(self, cfg: Config, number: int, img_size: tuple[int, int] | None) -> None:
        if number < 1:
            raise SetupError(f"expected --evaluate of at least 1 image, got {number}")
        require_entries(cfg, "test_dataloader", "test_evaluator")
        check_data(cfg, ["test"])
        self.cfg = cfg
        settings = copy.deepcopy(cfg.test_dataloader.dataset)
        for transform in settings.get("pipeline", []):
            if transform["type"] == "Resize" and img_size is not None:
                transform["scale"] = img_size[::-1]
        with building_errors():
            self.dataset = DATASETS.build(settings)
        count = min(number, len(self.dataset))
        places = np.linspace(0, len(self.dataset) - 1, count).round().astype(int)
        self.places: list[int] = places.tolist()

    def evaluate(self, predictions: list[BaseDataElement]) -> dict[str, float]:
        """Metrics of predictions, one for each image in order."""
        with building_errors():
            evaluator = Evaluator(self.cfg.test_evaluator)
        evaluator.dataset_meta = self.dataset.metainfo
        for metric in evaluator.metrics:
            if hasattr(metric, "img_ids"):  # objects of other images are not to be found
                metric.img_ids = [sample.img_id for sample in predictions]
        for sample in predictions:
            evaluator.process([sample])
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel("ERROR")
        try:
            with redirect_stdout(io.StringIO()):
                found = evaluator.evaluate(len(predictions))
        finally:
            logger.setLevel(level)
        return {name: float(x) for name, x in found.items() if np.ndim(x) == 0}


def compare_metrics(test_set: TestSet, source: Source, model: ExportedModel) -> Metrics:
    """Metrics of an exported model beside those of the host library's test step.

    Args:
        test_set: Images and evaluator.
        source: The model in PyTorch.
        model: The exported one; it reads the same image files.
    """
    task = model.card.task
    ours, theirs = [], []
    number = lonely = 0
    with DefaultScope.overwrite_default_scope(source.scope), torch.no_grad():
        for place in test_set.places:
            batch = pseudo_collate([test_set.dataset[place]])
            (predicted,) = source.model.test_step(batch)
            (result,) = model(Path(test_set.dataset.get_data_info(place)["img_path"]))
            if task == "detector":
                other = detections_of(predicted)
                number += len(result["scores"]) + len(other["scores"])
                lonely += unmatched(result, other) + unmatched(other, result)
            theirs.append(predicted)
            ours.append(with_result(predicted, task, result))
        pytorch, exported = test_set.evaluate(theirs), test_set.evaluate(ours)
    # mmdet's metrics are shares, those of the others percent.
    points = (100 if source.scope == "mmdet" else 1) * largest_gap(pytorch, exported)
    return Metrics(len(ours), pytorch, exported, points, number, lonely)


def largest_gap(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Largest difference of two values of one name; infinite where only one is a number."""
    gaps = [0.0]
    for name, value in a.items():
        if not (np.isnan(value) and np.isnan(b[name])):
            gaps.append(abs(value - b[name]))
    return float(np.nan_to_num(gaps, nan=np.inf).max())


def with_result(sample: Any, task: str, result: Result) -> BaseDataElement:
    """A copy of a host's data sample with an exported model's result as its prediction."""
    changed = sample.clone()
    values = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in result.items()}
    if task == "segmenter":
        changed.pred_sem_seg = PixelData(data=values["labels"][None])
    elif task == "classifier":
        changed.set_pred_score(values["scores"]).set_pred_label(values["label"])
    else:
        changed.pred_instances = InstanceData(bboxes=values.pop("boxes"), **values)
    return changed
