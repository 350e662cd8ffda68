"""Fixed pattern: keep the tokens near the center of the image."""

from typing import Literal

import torch
from torch import Tensor

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.gather import take_entries


@MODELS.register_module()
class RadialPruner(TokenPruner):
    """Keep the tokens of smallest distance to the center, the same for every image.

    Args:
        embed_dim: C, given by the backbone.
        norm: Distance: 'l1', 'l2' or 'linf'.
        compat: Coordinates as in the released code, equal steps from -g // 2 to g // 2 in float32,
            which splits radii that are equal. The schedule takes the same.

    Raises:
        ValueError: If there is no such norm.

    Source: Haurum et al., Which Tokens to Use?, ICCV 2023 workshops, and its released code. There
    whole discs are kept, whatever their number of tokens: give these numbers to the schedule (see
    :class:`cropr_mm.schedules.Discs`); with other numbers the last ring is kept in part, first
    tokens first. There the others are masked as queries and keys instead of dropped; what reads the
    class token sees no difference.
    """

    def __init__(
        self,
        embed_dim: int,
        norm: Literal["l1", "l2", "linf"] = "l2",
        compat: bool = False,
    ) -> None:
        super().__init__(embed_dim)
        if norm not in ("l1", "l2", "linf"):
            raise ValueError(f"expected norm 'l1', 'l2' or 'linf', got {norm!r}")
        self.norm = norm
        self.compat = compat

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Minus the distance from the image center, shape (B, N)."""
        table = radius(tokens.grid, self.norm, self.compat, tokens.index.device)
        return -take_entries(table, tokens.index)


def radius(
    grid: tuple[int, int], norm: str, compat: bool, device: torch.device | None = None
) -> Tensor:
    """Distance of every cell from the center, shape (h * w,), float32.

    Args:
        grid: Rows and columns (h, w).
        norm: 'l1', 'l2' or 'linf'.
        compat: See :class:`RadialPruner`; otherwise twice the distance, in whole numbers (squared
            for 'l2'), so that equal distances are equal numbers.
        device: Of the result.
    """
    given = dict(dtype=torch.float32, device=device)
    y = torch.tensor(axis(grid[0], compat), **given).abs()[:, None]
    x = torch.tensor(axis(grid[1], compat), **given).abs()[None, :]
    if norm == "l1":
        return (y + x).flatten()
    if norm == "linf":
        return torch.maximum(y, x).flatten()
    return (y**2 + x**2).sqrt().flatten() if compat else (y**2 + x**2).flatten()


def axis(side: int, compat: bool) -> list[float]:
    """Coordinates of the rows or columns of a grid, with the center at 0.

    Args:
        side: Number of rows or columns.
        compat: See :class:`RadialPruner`; otherwise in halves of a patch, whole numbers.
    """
    if compat:
        return float32_steps(-side // 2, side // 2, side)
    return [2.0 * i - (side - 1) for i in range(side)]


def float32_steps(first: float, last: float, count: int) -> list[float]:
    """What ``torch.linspace`` gives where a product and a sum are rounded once.

    Plain numbers, since other processors give other last bits, on which it depends which radii are
    equal.
    """
    step = float32((last - first) / max(count - 1, 1))
    values = []
    for i in range(count):
        ahead = first + step * i if i < count // 2 else last - step * (count - 1 - i)
        values.append(float32(ahead))
    return values


def float32(value: float) -> float:
    """A number rounded to the 24 bits of float32, by Veltkamp's splitting."""
    scaled = value * (2.0**29 + 1)
    return scaled - (scaled - value)
