"""Mean intersection over union of any selection of images, from the label maps that a test writes.

N images, K classes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        names = [Path(truth.get_data_info(i)["img_path"]).stem for i in range(len(truth))]
        self.films: Sequence[NDArray[np.int64]] = films_of(dataset, names)
        self.classes = truth.metainfo["classes"]
        areas = []
        for sample in truth:
            file = folder / f"{Path(sample['img_path']).stem}.png"
            found = mmcv.imread(file, flag="unchanged").astype(np.int64)
            label = sample["gt_seg_map"].astype(np.int64)
            maps = torch.from_numpy(found), torch.from_numpy(label)
            both, union, _, _ = IoUMetric.intersect_and_union(
                *maps, len(self.classes), truth.ignore_index
            )
            areas.append(torch.stack([both, union]).double().numpy())
        self.areas = np.stack(areas)  # (N, 2, K): intersection and union, pixels

    def by_class(self) -> dict[str, float]:
        """Intersection over union of each class on all images, percent; NaN if never seen."""
        both, union = self.areas.sum(axis=0)
        ratios = np.divide(both, union, out=np.full_like(both, np.nan), where=union > 0)
        return dict(zip(self.classes, (100.0 * ratios).tolist(), strict=True))

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


def films_of(dataset: Mapping[str, Any], names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Places of the frames of each film, in the order of their numbers; of CamVid only.

    Args:
        dataset: Config of the data set.
        names: Its photos. Those of CamVid have the film's name with the frame's number behind it,
            as in 0016E5_07959 or Seq05VD_f00030.
    """
    if dataset["type"] != "cropr_mm.CamVidDataset":
        return []
    frames: dict[str, list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        match = re.fullmatch(r"(.+_\D*)(\d+)", name)
        if match is None:
            raise ValueError(f"expected a film and the number of a frame, as in CamVid, got {name}")
        frames.setdefault(match[1], []).append((int(match[2]), place))
    return [np.array([place for _, place in sorted(film)]) for film in frames.values()]
