"""Pictures of where the tokens of an image went: patches that left, patches that were merged.

H, W pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
Color = tuple[int, int, int]
GRAY = 127
"""Level of what is no image."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX, 0.5
_LINE, _SWATCH = 28, 24  # pixels: height of a line of the legend, width of a color and its gap
_GOLDEN = 137.508  # degrees between the hues of successive clusters, so that few are alike
_DARK = np.array([12.0, 14.0, 18.0])


def input_picture(inputs: Tensor) -> Image:
    """Picture (H, W, 3), RGB, of a model's input (1 or 3, H, W), BGR."""
    image = inputs.clamp(0, 255).byte().cpu().expand(3, -1, -1)
    return image.permute(1, 2, 0).numpy()[..., ::-1].copy()


def padded(image: Image, size: tuple[int, int]) -> Image:
    """Picture of a size (H, W) from one at its upper left, shape (h, w, 3); the rest is gray."""
    picture = np.full((*size, 3), GRAY, np.uint8)
    picture[: image.shape[0], : image.shape[1]] = image
    return picture


def block_colors(num_blocks: int) -> Image:
    """Colors of the reducing blocks, early ones dark, shape (num_blocks, 3), RGB."""
    shades = np.linspace(0.1, 0.85, num_blocks) if num_blocks > 1 else np.array([0.35])
    return (colormaps["plasma"](shades)[:, :3] * 255).astype(np.uint8)


def draw_pruning_map(image: Image, left_after: NDArray[np.int64], blocks: Sequence[int]) -> Image:
    """Cover the patches that left with the color of their block.

    Args:
        image: Shape (H, W, 3), RGB.
        left_after: Block after which each pixel's patch left, -1 where it stayed; any size, it is
            scaled to that of the image.
        blocks: All blocks with a reducer, ascending.

    Returns:
        The picture, shape (H, W, 3).
    """
    size = image.shape[1], image.shape[0]
    left = cv2.resize(left_after.astype(np.int16), size, interpolation=cv2.INTER_NEAREST)
    picture = image.astype(np.float32)
    gray = picture.mean(axis=2, keepdims=True)
    for block, color in zip(blocks, block_colors(len(blocks)), strict=True):
        here = left == block
        picture[here] = 0.72 * color + 0.28 * gray[here]
    picture[_borders(left)] = 255
    return picture.round().astype(np.uint8)


def draw_clusters(
    image: Image, clusters: NDArray[np.int64], filled: tuple[float, float] = (1.0, 1.0)
) -> Image:
    """Give the patches of each merged token one color; a patch of its own shows the image.

    A color is that of the token's first patch, so it lasts over blocks.

    Args:
        image: Shape (H, W, 3), RGB.
        clusters: Token that each patch is part of, shape (h, w), -1 where it left, which is dark.
        filled: Share of the grid's height and width that the image fills; the rest is padding.

    Returns:
        The picture, shape (H, W, 3).
    """
    names, first, inverse, count = np.unique(
        clusters, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(clusters.shape)
    hue = first * _GOLDEN % 360 / 360
    tint = 255 * hsv_to_rgb(np.stack([hue, np.full(len(hue), 0.75), np.full(len(hue), 0.9)], 1))
    opacity = np.where(count > 1, 0.6, 0.0)
    tint[names < 0], opacity[names < 0] = _DARK, 0.8
    rows, columns = (
        ((np.arange(length) + 0.5) / length * share * cells).astype(int)
        for length, share, cells in zip(image.shape, filled, clusters.shape, strict=False)
    )
    place = inverse[np.ix_(rows, columns)]  # (H, W)
    share = opacity[place][..., None]
    picture = share * tint[place] + (1 - share) * image
    picture[_borders(place)] = 255
    return picture.round().astype(np.uint8)


def _borders(groups: NDArray) -> NDArray[np.bool_]:
    """Pixels whose left or upper neighbor is of another group, shape (H, W)."""
    border = np.zeros(groups.shape, bool)
    border[1:] |= groups[1:] != groups[:-1]
    border[:, 1:] |= groups[:, 1:] != groups[:, :-1]
    return border


def draw_legend(width: int, blocks: Sequence[int]) -> Image:
    """Say at which block, counted from 1, the patches of a color left; black on white.

    Args:
        width: Width of the legend, in pixels.
        blocks: All blocks with a reducer, ascending.

    Returns:
        As many lines as the width asks for, shape (H, width, 3), RGB.
    """
    entries: list[tuple[Color | None, str]] = [(None, "patch left at block:")]
    for block, (red, green, blue) in zip(blocks, block_colors(len(blocks)).tolist(), strict=True):
        entries.append(((red, green, blue), str(block + 1)))
    return _legend(width, [*entries, ((255, 255, 255), "stayed to the end (image shows)")])


def draw_cluster_legend(width: int) -> Image:
    """Say what colors of :func:`draw_clusters` are; shape (H, width, 3), RGB."""
    return _legend(
        width,
        [
            (None, "patches of one color: merged into one token"),
            ((255, 255, 255), "a token of its own (image shows)"),
        ],
    )


def _legend(width: int, entries: Sequence[tuple[Color | None, str]]) -> Image:
    lines: list[Image] = []
    x = width
    for color, text in entries:
        length = cv2.getTextSize(text, *_FONT, 1)[0][0]
        swatch = 0 if color is None else _SWATCH
        if x + swatch + length > width:
            lines.append(np.full((_LINE, width, 3), 255, np.uint8))
            x = 8
        if color is not None:
            corners = (x, 6), (x + _SWATCH - 7, 22)
            cv2.rectangle(lines[-1], *corners, color, cv2.FILLED)
            cv2.rectangle(lines[-1], *corners, (128, 128, 128))
        cv2.putText(lines[-1], text, (x + swatch, 19), *_FONT, (0, 0, 0), 1, cv2.LINE_AA)
        x += swatch + length + 16
    return np.concatenate(lines)
