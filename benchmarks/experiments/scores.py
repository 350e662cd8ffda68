"""What a run of each task writes when it is tested, and how that is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray


class Scores(Protocol):
    """Metrics of one tested model on any selection of its test images.

    Attributes:
        num_images: Test images.
        films: Places of the frames of each film in order, where the images are from films.
    """

    num_images: int
    films: Sequence[NDArray[np.int64]]

    def __call__(self, images: NDArray[np.int64]) -> dict[str, float]:
        """Percent by name, on the images of these places, shape (n,); repetition counts."""
        ...

    def by_class(self) -> dict[str, float]:
        """What the last metric is the mean of: percent by class, on all images; or nothing."""
        ...


@dataclass(frozen=True)
class Task:
    """A kind of model.

    Attributes:
        metrics: Names of the metrics, in percent; models are compared by the last one.
        record: Makes a config's test write what ``read`` needs, into a folder.
        read: Scores of a test with this config that wrote into this folder.
        logits: Module of the models whose output are logits of classes that exclude each other,
            None if there is none.
    """

    metrics: tuple[str, ...]
    record: Callable[[Config, Path], None]
    read: Callable[[Config, Path], Scores]
    logits: str | None = None

    @property
    def main(self) -> str:
        """Metric that models are compared by."""
        return self.metrics[-1]


def _record_detections(cfg: Config, folder: Path) -> None:
    cfg.test_evaluator.outfile_prefix = str(folder / "predictions")


def _read_detections(cfg: Config, folder: Path, names: Sequence[str]) -> Scores:
    from experiments.detection_scores import DetectionScores

    return DetectionScores(cfg.test_evaluator.ann_file, folder / "predictions", names)


def _record_label_maps(cfg: Config, folder: Path) -> None:
    cfg.test_evaluator.output_dir = str(folder / "predictions")


def _read_label_maps(cfg: Config, folder: Path) -> Scores:
    from experiments.segmentation_scores import SegmentationScores

    return SegmentationScores(cfg.test_dataloader.dataset, folder / "predictions")


def _record_classes(cfg: Config, folder: Path) -> None:
    dump = dict(type="DumpResults", out_file_path=str(folder / "predictions.pkl"))
    metrics = cfg.test_evaluator
    cfg.test_evaluator = [*(metrics if isinstance(metrics, list) else [metrics]), dump]


def _read_class(cfg: Config, folder: Path) -> Scores:
    from experiments.classification_scores import SingleLabelScores

    return SingleLabelScores(folder / "predictions.pkl")


def _read_classes(cfg: Config, folder: Path) -> Scores:
    from experiments.classification_scores import MultiLabelScores

    return MultiLabelScores(folder / "predictions.pkl")


def _detection(*names: str) -> Task:
    return Task(names, _record_detections, partial(_read_detections, names=names))


TASKS = {
    "det": _detection("box AP", "mask AP"),
    "boxes": _detection("box AP"),
    "seg": Task(("mIoU",), _record_label_maps, _read_label_maps, "decode_head.conv_seg"),
    "cls": Task(("top-1",), _record_classes, _read_class, "head.fc"),
    "multilabel": Task(("mAP",), _record_classes, _read_classes),
}
"""By name; each needs its own host library only."""
