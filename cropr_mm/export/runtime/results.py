"""From the outputs of a graph to results in the coordinates of the image."""

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.pixels import Placed

Result = dict[str, NDArray]


def result_of(task: str, outputs: list[NDArray], placed: Placed) -> Result:
    """Result for one image.

    Args:
        task: 'encoder', 'segmenter', 'classifier' or 'detector'.
        outputs: Of the graph, for this image alone, without batch axis.
        placed: Where the image lies in the input.

    Returns:
        Encoder: 'output_0', ... as they are. Segmenter: 'labels', class of each pixel of the image,
        shape (h, w), int64. Classifier: 'scores', shape (classes,), and 'label', the best one.
        Detector: 'boxes' (D, 4) in pixels of the image, 'scores' and 'labels' (D,), best first, and
        where the model has masks 'masks' (D, h, w), bool, and where it scores these by themselves
        'mask_scores' (D,).
    """
    if task == "segmenter":
        height, width = placed.content
        logits = resize_map(outputs[0][:, :height, :width], placed.original)
        return {"labels": logits.argmax(axis=0)}
    if task == "detector":
        return _detections(outputs, placed)
    if task == "classifier":
        return {"scores": outputs[0], "label": np.asarray(outputs[0].argmax())}
    return {f"output_{i}": output for i, output in enumerate(outputs)}


def resize_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear interpolation of maps (C, H, W) to another size, as torch does it.

    Corners are not aligned, and there is no antialiasing.
    """
    for axis, length in ((1, size[0]), (2, size[1])):
        before = values.shape[axis]
        if before == length:
            continue
        place = ((np.arange(length, dtype=np.float32) + 0.5) * (before / length) - 0.5).clip(0)
        first = np.floor(place).astype(np.intp).clip(0, before - 1)
        shape = [1, 1, 1]
        shape[axis] = length
        share = (place - first).astype(np.float32).reshape(shape)
        second = np.minimum(first + 1, before - 1)
        values = values.take(first, axis) * (1 - share) + values.take(second, axis) * share
    return values


def _detections(outputs: list[NDArray], placed: Placed) -> Result:
    boxes, scores, labels, *masks = outputs  # masks, and their scores
    real = scores > 0
    (height, width), (tall, wide) = placed.content, placed.original
    # Factors as the hosts have them, in float32.
    factors = np.array([width / wide, height / tall] * 2, np.float32)
    result = {"boxes": boxes[real] / factors, "scores": scores[real], "labels": labels[real]}
    if masks:
        parts = zip(masks[0][real], result["boxes"], strict=True)
        pasted = [paste_mask(mask, box, placed.original) >= 0.5 for mask, box in parts]
        result["masks"] = np.array(pasted, bool).reshape(-1, tall, wide)
    if len(masks) > 1:
        result["mask_scores"] = masks[1][real]
    return result


def paste_mask(
    mask: NDArray[np.float32], box: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Probabilities (m, m) inside of a box, at the pixels of an image (h, w); 0 outside.

    Args:
        mask: Probabilities.
        box: Left, top, right, bottom, in pixels.
        size: Height and width of the image.
    """
    rows = _weights(size[0], box[1], box[3], mask.shape[0])
    columns = _weights(size[1], box[0], box[2], mask.shape[1])
    return rows @ mask @ columns.T


def _weights(length: int, first: float, last: float, cells: int) -> NDArray[np.float32]:
    """Of each cell at each pixel of an axis, linear and zero outside, shape (length, cells)."""
    place = (np.arange(length) + 0.5 - first) / max(last - first, 1e-6) * cells - 0.5
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(cells))).astype(np.float32)
