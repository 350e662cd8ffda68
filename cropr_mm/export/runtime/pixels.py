"""Read and resize pictures bit by bit as OpenCV does, and normalize them as the hosts do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cropr_mm.export.runtime.card import Input
from cropr_mm.export.runtime.errors import ExportError

Picture = NDArray[np.uint8]
_BITS = 11  # of the weights of OpenCV's linear interpolation
_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}


class Placed(NamedTuple):
    """An image as the model's input.

    Attributes:
        pixels: Shape (3, H, W), float32.
        content: Height and width of the picture in it; the rest is padding.
        original: Height and width of the image itself.
    """

    pixels: NDArray[np.float32]
    content: tuple[int, int]
    original: tuple[int, int]


def read_image(file: str | Path) -> Picture:
    """Read an image file as RGB, shape (h, w, 3), turned as its EXIF data say.

    Raises:
        ExportError: If there is no such image.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ExportError(f"expected an image file, got {file}: {error}") from error


def place_image(picture: Picture, to: Input) -> Placed:
    """Resize, normalize and pad a picture for a model.

    Args:
        picture: RGB, shape (h, w, 3).
        to: The model's input.

    Raises:
        ExportError: If it is no such picture, or does not fit.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ExportError(
            f"expected an RGB picture (height, width, 3) of uint8, got {picture.dtype} of shape "
            f"{picture.shape}"
        )
    small = picture
    for step in to.steps:
        small = apply_step(small, step, to.size)
    (height, width), (most_y, most_x) = small.shape[:2], to.size
    if height > most_y or width > most_x or (not to.pads and (height, width) != to.size):
        wanted = f"up to {most_y}x{most_x}" if to.pads else f"{most_y}x{most_x}"
        raise ExportError(
            f"expected a picture of {wanted} pixels (height x width), got {height}x{width}; the "
            "model's test pipeline does not resize it"
        )
    ordered = small if to.channels == "rgb" else small[..., ::-1]
    values = ordered.astype(np.float32).transpose(2, 0, 1)
    values -= np.asarray(to.mean, np.float32)[:, None, None]
    values /= np.asarray(to.std, np.float32)[:, None, None]
    pixels = np.full((3, most_y, most_x), to.pad_value, np.float32)
    pixels[:, :height, :width] = values
    return Placed(pixels, (height, width), (picture.shape[0], picture.shape[1]))


def apply_step(picture: Picture, step: Mapping[str, Any], most: tuple[int, int]) -> Picture:
    """Do one step of preparing a picture.

    Args:
        picture: Shape (h, w, 3).
        step: ``op`` 'resize' with ``scale`` (width, height) and ``keep_ratio``, 'resize_edge' with
            ``scale`` and ``edge``, both with ``backend`` and ``interpolation``; or 'center_crop'
            with ``size`` (height, width).
        most: Height and width of the model's input: with ``keep_ratio`` no picture becomes larger.
    """
    height, width = picture.shape[:2]
    if step["op"] == "center_crop":
        crop_y, crop_x = step["size"]
        top = max(0, round((height - crop_y) / 2.0))
        left = max(0, round((width - crop_x) / 2.0))
        return picture[top : top + crop_y, left : left + crop_x]
    if step["op"] == "resize_edge":
        by_width = _scales_width(height, width, step["edge"])
        if by_width:
            size = step["scale"], int(step["scale"] * height / width)
        else:
            size = int(step["scale"] * width / height), step["scale"]
    elif step["keep_ratio"]:
        long, short = max(step["scale"]), min(step["scale"])
        factor = min(long / max(height, width), short / min(height, width))
        if int(height * factor + 0.5) > most[0] or int(width * factor + 0.5) > most[1]:
            factor = min(most[0] / height, most[1] / width)
        size = int(width * factor + 0.5), int(height * factor + 0.5)
    else:
        size = tuple(step["scale"])
    if step["backend"] == "pillow":
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(image.resize(size, _PILLOW[step["interpolation"]]))
    return resize_linear(picture, size)


def _scales_width(height: int, width: int, edge: str) -> bool:
    if edge in ("short", "long"):
        return (width < height) == (edge == "short")
    return edge == "width"


def resize_linear(picture: Picture, size: tuple[int, int]) -> Picture:
    """What ``cv2.resize`` with INTER_LINEAR gives, bit by bit.

    Args:
        picture: Shape (h, w, channels), uint8.
        size: Width and height of the result.
    """
    height, width = picture.shape[:2]
    if size == (width, height):
        return picture
    if size == (width / 2, height / 2):  # OpenCV takes means of areas there
        quads = picture.reshape(size[1], 2, size[0], 2, -1).astype(np.uint16)
        return ((quads.sum(axis=(1, 3)) + 2) >> 2).astype(np.uint8)
    left, right, near_x, far_x = _taps(width, size[0], weigh_edges=False)
    top, bottom, near_y, far_y = _taps(height, size[1], weigh_edges=True)
    wide = picture.astype(np.int32)
    rows = wide[:, left] * near_x[:, None] + wide[:, right] * far_x[:, None]  # (h, W, channels)
    rows >>= 4
    upper = (rows[top] * near_y[:, None, None]) >> 16
    lower = (rows[bottom] * far_y[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).clip(0, 255).astype(np.uint8)


def _taps(before: int, after: int, weigh_edges: bool) -> tuple[NDArray[np.intp], ...]:
    """Of each new position both old ones and their weights, in units of 2 ** -11.

    Beyond the edges both are the same; OpenCV rounds once there in a row, twice in a column.
    """
    place = ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.intp)
    share = place - first.astype(np.float32)
    if not weigh_edges:
        share[(first < 0) | (first >= before - 1)] = 0
    one = np.float32(1 << _BITS)
    far = np.rint(share * one).astype(np.int32)
    near = np.rint((np.float32(1) - share) * one).astype(np.int32)
    return first.clip(0, before - 1), (first + 1).clip(0, before - 1), near, far
