"""What a model predicts on one image, as a picture and lines of text.

C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from matplotlib import colormaps
from mmengine.registry import VISUALIZERS
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from cropr_mm.hooks.draw_predictions import draw_predictions

Image = NDArray[np.uint8]
_MIN_SIDE = 384  # pixels; smaller images are enlarged, or boxes and letters would cover them
_MOST_LINES = 5  # of a classifier


def zoom_of(image: Image) -> int:
    """How much to enlarge an image, shape (H, W, 3), so that drawings do not cover it."""
    return max(1, -(-_MIN_SIDE // min(image.shape[:2])))


def predicted(
    image: Image, zoom: int, sample: BaseDataElement, meta: Mapping[str, Any], score_thr: float
) -> tuple[Image | None, dict[str, Any]]:
    """Draw and describe predictions.

    Args:
        image: Shape (H, W, 3), RGB.
        zoom: How much to enlarge it.
        sample: Predictions in pixels of the image.
        meta: Of the data set: 'classes' and 'palette', where known.
        score_thr: Least score of detections.

    Returns:
        The picture, enlarged, None for a classifier, whose answer is text; and plain data:
        ``picture``, which is left to the caller, ``title`` and ``lines``, each of a ``text``, a
        ``share`` in [0, 1], a ``color`` or None, and whether it is ``chosen``.
    """
    if "pred_instances" in sample:
        picture = _draw("mmdet.DetLocalVisualizer", image, zoom, sample, meta, score_thr)
        found = int((sample.pred_instances.scores >= score_thr).sum())
        plural = "" if found == 1 else "s"
        return picture, _text(f"{found} detection{plural} with a score of at least {score_thr:g}")
    if "pred_sem_seg" in sample:
        palette = _palette(meta, int(sample.pred_sem_seg.data.max()) + 1)
        classes = [_name(meta, i) for i in range(len(palette))]
        full = {**meta, "classes": classes, "palette": palette}
        picture = _draw("mmseg.SegLocalVisualizer", image, zoom, sample, full, score_thr)
        return picture, _text("Pixels by predicted class", _class_shares(sample, classes, palette))
    if "pred_score" in sample:
        return None, _text("Predicted class", _scores(sample, meta))
    return None, _text(f"Predictions of a {type(sample).__name__}: no picture of this kind")


def _draw(
    kind: str,
    image: Image,
    zoom: int,
    sample: BaseDataElement,
    meta: Mapping[str, Any],
    score_thr: float,
) -> Image:
    """Let a visualizer of a host library draw, none that writes anywhere else."""
    more = dict(alpha=0.6) if "Seg" in kind else {}
    visualizer = VISUALIZERS.get(kind)(name="page", **more)
    visualizer.dataset_meta = dict(meta)
    large = mmcv.imrescale(image, float(zoom), interpolation="nearest")
    return draw_predictions(visualizer, large, sample, zoom, score_thr)


def _text(title: str, lines: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"picture": None, "title": title, "lines": list(lines)}


def _line(text: str, share: float, color: str | None = None, chosen: bool = False) -> dict:
    return {"text": text, "share": share, "color": color, "chosen": chosen}


def _class_shares(
    sample: BaseDataElement, classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    counts = torch.bincount(sample.pred_sem_seg.data.flatten(), minlength=len(classes))
    shares = (counts / counts.sum()).tolist()
    order = sorted(range(len(shares)), key=lambda i: -shares[i])
    return [
        _line(classes[i], shares[i], "rgb({}, {}, {})".format(*palette[i]))
        for i in order
        if shares[i] > 0
    ]


def _scores(sample: BaseDataElement, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    scores, chosen = sample.pred_score.tolist(), set(sample.pred_label.reshape(-1).tolist())
    order = sorted(range(len(scores)), key=lambda i: (i not in chosen, -scores[i]))
    most = max(_MOST_LINES, len(chosen))
    return [_line(_name(meta, i), scores[i], chosen=i in chosen) for i in order[:most]]


def _name(meta: Mapping[str, Any], label: int) -> str:
    classes = meta.get("classes") or ()
    return str(classes[label]) if label < len(classes) else f"class {label}"


def _palette(meta: Mapping[str, Any], num_classes: int) -> list[list[int]]:
    """Colors of the classes, RGB; evenly spread hues where the data set has none."""
    known = meta.get("palette")
    if isinstance(known, Sequence) and not isinstance(known, str) and len(known) >= num_classes:
        return [[int(value) for value in color] for color in known]
    count = max(num_classes, len(meta.get("classes") or ()))
    return (colormaps["hsv"](np.arange(count) / count)[:, :3] * 255).astype(int).tolist()
