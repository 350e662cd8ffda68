"""Fill the signals that reducers read, for the tokens that are alive.

B batch, N patch tokens of the image or of those that are alive.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cropr_mm.ops.padding import is_padding
from cropr_mm.ops.variance import patch_variance
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.gather import gather_tokens

IMAGE_SIGNALS = frozenset({"noise", "variance"})
"""Signals that need no attention: every backbone can fill them."""


def image_signals(img: Tensor, cell_size: int, variance: bool, padding: bool) -> dict[str, Tensor]:
    """Compute what reducers read about the cells of the image.

    Args:
        img: Images as the backbone sees them, shape (B, C, H, W).
        cell_size: Side of a token's cell, in pixels.
        variance: Whether a reducer reads the variance of pixels.
        padding: Whether padding is dropped first.

    Returns:
        Signals by name, by raster id of the cell: 'variance' (B, N, C), 'padding' (B, N).

    Raises:
        ValueError: If cells do not divide the image.
    """
    signals: dict[str, Tensor] = {}
    if not (variance or padding):
        return signals
    if img.shape[2] % cell_size or img.shape[3] % cell_size:
        raise ValueError(
            f"variance and padding of cells need image sides that are multiples of {cell_size}, "
            f"got {img.shape[2]}x{img.shape[3]} pixels (set pad_size_divisor in the data "
            "preprocessor)"
        )
    if variance:
        signals["variance"] = patch_variance(img, cell_size)
    if padding:
        signals["padding"] = is_padding(img, cell_size)
    return signals


def live_signals(
    tokens: Tokens, attention: Mapping[str, Tensor], image: Mapping[str, Tensor], noise: bool
) -> Signals:
    """Align signals with the live patch tokens.

    Args:
        tokens: P prefix and N live patch tokens.
        attention: Signals of the block's attention, over all P + N tokens.
        image: Signals of the image's cells, by raster id.
        noise: Whether the reducer reads noise.
    """
    values = {name: signal[:, tokens.num_prefix :] for name, signal in attention.items()}
    # A token of no cell takes the value of the first cell, which is never padding.
    cells = tokens.index.clamp(min=0)
    for name, value in image.items():
        flat = value.dim() == 2
        values[name] = value.gather(1, cells) if flat else gather_tokens(value, cells)
    if noise:
        values["noise"] = torch.rand(tokens.index.shape, device=tokens.x.device)
    return Signals(**values)
