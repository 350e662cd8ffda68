"""Mean intersection over union of any selection of images, from the label maps that a test writes.

N images, K classes.
"""

from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmseg.evaluation import IoUMetric
from numpy.typing import NDArray


class SegmentationScores:
    """mIoU in percent: pixels of all selected images are pooled, then the mean of classes is taken.

    Args:
        dataset: Config of the test dataset.
        folder: Predicted label maps as mmseg's IoUMetric writes them, one PNG per image.
    """

    def __init__(self, dataset: Config, folder: Path) -> None:
        truth = DATASETS.build({**dataset, "pipeline": [dict(type="LoadAnnotations")]})
        self.num_images = len(truth)
        classes = len(truth.metainfo["classes"])
        areas = []
        for sample in truth:
            file = folder / f"{Path(sample['img_path']).stem}.png"
            found = mmcv.imread(file, flag="unchanged").astype(np.int64)
            label = sample["gt_seg_map"].astype(np.int64)
            both, union, _, _ = IoUMetric.intersect_and_union(
                torch.from_numpy(found), torch.from_numpy(label), classes, truth.ignore_index
            )
            areas.append(torch.stack([both, union]).double().numpy())
        self.areas = np.stack(areas)  # (N, 2, K): intersection and union, pixels

    def __call__(self, images: NDArray[np.int64]) -> dict[str, float]:
        """Mean over the classes that these images show or were said to show.

        Args:
            images: Places in the dataset, shape (n,); repetition counts.

        Returns:
            'mIoU', percent.
        """
        both, union = self.areas[images].sum(axis=0)
        seen = union > 0
        return {"mIoU": 100.0 * float((both[seen] / union[seen]).mean())}
