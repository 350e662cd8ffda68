"""From the outputs of a graph to results in the coordinates of the image."""

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.pixels import Placed

Result = dict[str, NDArray]


def result_of(task: str, outputs: list[NDArray], placed: Placed) -> Result:
    """Result for one image.

    Args:
        task: 'encoder', 'segmenter' or 'classifier'.
        outputs: Of the graph, for this image alone, without batch axis.
        placed: Where the image lies in the input.

    Returns:
        Encoder: 'output_0', ... as they are. Segmenter: 'labels', class of each pixel of the image,
        shape (h, w), int64. Classifier: 'scores', shape (classes,), and 'label', the best one.
    """
    if task == "segmenter":
        height, width = placed.content
        logits = resize_map(outputs[0][:, :height, :width], placed.original)
        return {"labels": logits.argmax(axis=0)}
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
