"""Pictures of predictions, drawn by the visualizer of the host library.

H, W pixels of the picture.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.structures import BaseDataElement, PixelData
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def draw_predictions(
    visualizer: Any, image: Image, sample: BaseDataElement, zoom: int, score_thr: float
) -> Image:
    """Let the host library's visualizer draw; one that cannot leaves the image as it is.

    Args:
        visualizer: The runner's visualizer: of mmdet, mmseg or mmpretrain.
        image: Enlarged image, shape (H, W, 3), RGB.
        sample: Predictions in the coordinates of the image before enlargement: instances, a label
            map or classes.
        zoom: How much larger the image is.
        score_thr: Least score of instances that are drawn.

    Returns:
        The picture, shape (H, W, 3).
    """
    sample = sample.clone().cpu()
    arguments: Mapping[str, Any]
    if "pred_instances" in sample and hasattr(visualizer, "add_datasample"):
        _enlarge_instances(sample, zoom, score_thr)
        draw = visualizer.add_datasample
        arguments = dict(draw_gt=False, pred_score_thr=score_thr)
    elif "pred_sem_seg" in sample and hasattr(visualizer, "add_datasample"):
        labels = sample.pred_sem_seg.data.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        sample.pred_sem_seg = PixelData(data=labels)
        draw = visualizer.add_datasample
        arguments = dict(draw_gt=False, with_labels=False)
    elif "pred_label" in sample and hasattr(visualizer, "visualize_cls"):
        draw = visualizer.visualize_cls
        arguments = {}
    else:
        return image
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "drawn.png")
        named = {"image": image, "data_sample": sample, "name": "drawn", "out_file": file}
        draw(**named, **arguments)
        return mmcv.imread(file, channel_order="rgb")


def _enlarge_instances(sample: BaseDataElement, zoom: int, score_thr: float) -> None:
    instances = sample.pred_instances
    instances = instances[instances.scores >= score_thr]
    instances.bboxes = instances.bboxes * zoom
    if "masks" in instances:
        masks = instances.masks
        instances.masks = masks.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    sample.pred_instances = instances
