"""Accuracy or mean average precision of any selection of images, from what a test dumps.

N images, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import load
from mmpretrain.evaluation import AveragePrecision
from mmpretrain.structures import label_to_onehot
from numpy.typing import NDArray


class SingleLabelScores:
    """Top-1 accuracy in percent.

    Args:
        file: Predictions as mmengine's DumpResults writes them.
    """

    films: Sequence[NDArray[np.int64]] = ()

    def __init__(self, file: Path) -> None:
        samples = load(file)
        self.num_images = len(samples)
        self.right = np.array([int(s["pred_label"]) == int(s["gt_label"]) for s in samples])

    def by_class(self) -> dict[str, float]:
        """Nothing: dumped predictions have no names of classes."""
        return {}

    def __call__(self, images: NDArray[np.int64]) -> dict[str, float]:
        """Share of right labels, percent, on the images at places ``images``, shape (n,)."""
        return {"top-1": 100.0 * float(self.right[images].mean())}


class MultiLabelScores:
    """Mean average precision over classes, in percent.

    Args:
        file: Predictions as mmengine's DumpResults writes them.
    """

    films: Sequence[NDArray[np.int64]] = ()

    def __init__(self, file: Path) -> None:
        samples = load(file)
        self.num_images = len(samples)
        self.scores = np.stack([s["pred_score"].numpy() for s in samples])  # (N, K)
        self.truth = np.stack([_present(s, self.scores.shape[1]) for s in samples])  # (N, K)

    def by_class(self) -> dict[str, float]:
        """Nothing: dumped predictions have no names of classes."""
        return {}

    def __call__(self, images: NDArray[np.int64]) -> dict[str, float]:
        """Mean over the classes that are present in the images at places ``images``, shape (n,)."""
        scores, truth = self.scores[images], self.truth[images]
        seen = truth.any(axis=0)
        if not seen.any():
            return {"mAP": float("nan")}
        found = AveragePrecision.calculate(scores[:, seen], truth[:, seen])
        return {"mAP": float(found)}


def _present(sample: Any, classes: int) -> NDArray[np.int64]:
    """Multi-hot vector of the ground truth, shape (K,)."""
    if "gt_score" in sample:
        return sample["gt_score"].numpy().astype(np.int64)
    return label_to_onehot(sample["gt_label"], classes).numpy()
