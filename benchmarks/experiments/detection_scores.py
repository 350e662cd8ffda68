"""Average precision of any selection of images, from the files that a test writes."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

KINDS = {"box AP": "bbox", "mask AP": "segm"}


class DetectionScores:
    """COCO's average precision (IoU 0.5 to 0.95, at most 100 detections), in percent.

    Matching is done once per image; a selection of images, also with repetition, only accumulates.

    Args:
        ann_file: Ground truth, COCO json.
        prefix: Predictions: ``<prefix>.bbox.json`` and ``<prefix>.segm.json``, as CocoMetric writes
            them.
        names: Names out of KINDS; detectors without masks have the first only.
    """

    films: Sequence[NDArray[np.int64]] = ()

    def __init__(
        self, ann_file: str | Path, prefix: str | Path, names: Sequence[str] = tuple(KINDS)
    ) -> None:
        with redirect_stdout(io.StringIO()):
            truth = COCO(str(ann_file))
            self.evaluations = {}
            for name in names:
                kind = KINDS[name]
                evaluation = COCOeval(truth, truth.loadRes(f"{prefix}.{kind}.json"), kind)
                evaluation.params.areaRngLbl = ["all"]
                evaluation.params.areaRng = [evaluation.params.areaRng[0]]
                evaluation.params.maxDets = [100]
                evaluation.evaluate()
                self.evaluations[name] = evaluation
        self.num_images = len(truth.imgs)

    def by_class(self) -> dict[str, float]:
        """Nothing: the benchmarks of detection have one class or no names of classes."""
        return {}

    def __call__(self, images: NDArray[np.int64]) -> dict[str, float]:
        """Average precision on some images.

        Args:
            images: Places in the ascending list of image ids, shape (n,); repetition counts.

        Returns:
            Percent by name; NaN where these images have no object.
        """
        return {name: self._accumulate(e, images) for name, e in self.evaluations.items()}

    def _accumulate(self, evaluation: COCOeval, images: NDArray[np.int64]) -> float:
        params, matches = evaluation._paramsEval, evaluation.evalImgs
        ids = params.imgIds
        params.imgIds = [ids[i] for i in images]
        # evalImgs is a flat list: category, then area, then image.
        evaluation.evalImgs = [
            matches[start + i] for start in range(0, len(matches), len(ids)) for i in images
        ]
        with redirect_stdout(io.StringIO()):
            evaluation.accumulate(params)
        params.imgIds, evaluation.evalImgs = ids, matches
        precision = evaluation.eval["precision"]
        found = precision[precision > -1]
        return 100.0 * float(found.mean()) if found.size else float("nan")
