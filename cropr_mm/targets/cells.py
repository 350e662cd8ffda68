"""Random cells of a dense target, so that a module trains on some of its queries at a time.

B images, M cells, n drawn cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cropr_mm.targets.base import LabelTarget


class Drawn(NamedTuple):
    """Cells that are learned now.

    Attributes:
        cells: Drawn cells of each image, shape (B, n), int64 in [0, M).
        target: The encoded target there, shape (B, n, ...).
        factor: What the loss of the drawn cells is multiplied by, a float32 scalar, so that over
            many draws it and its gradient are those of all cells on average. It differs from 1
            where cells without a class do not count.
    """

    cells: Tensor
    target: Tensor
    factor: Tensor


def draw_cells(target: LabelTarget, encoded: Tensor, noise: Tensor, num_cells: int) -> Drawn:
    """Draw cells of each image without repetition, all equally likely.

    Args:
        target: Of a grid.
        encoded: What it encoded, shape (B, M, ...).
        noise: Uniform numbers, shape (B, M): the cells of the largest are drawn.
        num_cells: n, at most M.

    Raises:
        ValueError: If target and noise do not belong together.
    """
    if encoded.shape[:2] != noise.shape:
        raise ValueError(
            f"expected a target of {tuple(noise.shape)} images and cells, got "
            f"{type(target).__name__} encoded as {tuple(encoded.shape)}"
        )
    cells = noise.topk(num_cells, dim=1).indices  # (B, n)
    images = torch.arange(len(cells), device=cells.device).unsqueeze(1)  # (B, 1)
    drawn = encoded[images, cells]
    # Each cell is drawn with probability n / M and must count as among all of them.
    expected = target.count(encoded) * (num_cells / noise.shape[1])
    return Drawn(cells, drawn, target.count(drawn) / expected.clamp(min=torch.finfo().tiny))
