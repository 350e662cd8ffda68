"""Rotary position embedding over two axes, as tables of cosines and sines.

N positions, d channels of a head. Channels turn in d / 2 pairs: the first half of the pairs with
the row (y), the second with the column (x) of a token. Tables are as wide as a head, so that a
rotation is two products of whole rows and a swap, and no product of every other channel.

Source: EVA-02 (arXiv 2303.11331) rescales positions to a reference grid; DINOv3 (arXiv 2508.10104)
takes cell centers in [-1, 1]. Tables are looked up by token index, so pruned tokens keep their
coordinates.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Rope(NamedTuple):
    """What rotates the tokens, each table of shape (N, d) or (1 or B, N, d).

    Attributes:
        cos: Factor of a channel.
        sin: Factor of its partner, negative for the first of a pair.
    """

    cos: Tensor
    sin: Tensor


class RopeSpec(NamedTuple):
    """How coordinates become angles.

    Attributes:
        kind: 'eva' (position * ref_grid / span, frequencies 1 / t**k, pairs of neighbors) or
            'dinov3' (centers in [-1, 1], 2 pi / t**k, channel i is paired with i + d / 2).
        temperature: t.
        ref_grid: Side of the reference grid of 'eva', in patches.
    """

    kind: str
    temperature: float
    ref_grid: int


def rope_table(
    y: Tensor, x: Tensor, span: tuple[float, float], head_dim: int, spec: RopeSpec
) -> Rope:
    """Rotation table for tokens at the given coordinates.

    Args:
        y: Row of each token, shape (N,), in patches, whole or between rows.
        x: Column of each token, shape (N,), in patches.
        span: Extent (height, width) that is mapped onto the reference, in patches: the grid for
            global attention, the window for window attention.
        head_dim: d, a multiple of 4.
        spec: Kind and constants.

    Returns:
        Table with N rows, float32.
    """
    quarter = head_dim // 4
    exponent = torch.arange(quarter, device=y.device, dtype=torch.float32) / quarter
    if spec.kind == "eva":
        bands = spec.temperature**-exponent
        axes = [y.float() * (spec.ref_grid / span[0]), x.float() * (spec.ref_grid / span[1])]
    else:
        bands = 2 * math.pi * spec.temperature**-exponent
        axes = [(y.float() + 0.5) * (2 / span[0]) - 1, (x.float() + 0.5) * (2 / span[1]) - 1]
    angles = torch.cat([axis[:, None] * bands for axis in axes], dim=1)  # (N, d / 2)
    cos, sin = angles.cos(), angles.sin()
    join = _beside if spec.kind == "eva" else _behind
    return Rope(join(cos, cos), join(-sin, sin))


def apply_rope(x: Tensor, rope: Rope, half: bool) -> Tensor:
    """Rotate pairs of channels; computed in the wider of both dtypes, returned in that of ``x``.

    Args:
        x: Queries or keys, shape (B, N, ..., d).
        rope: Tables of shape (1 or B, N, d), broadcast over the axes between N and d.
        half: Channel i is paired with i + d / 2 (DINOv3) instead of 2 i with 2 i + 1 (EVA), as in
            the tables.

    Returns:
        Rotated ``x``.
    """
    shape = rope.cos.shape[:2] + (1,) * (x.dim() - 3) + rope.cos.shape[-1:]
    cos, sin = rope.cos.view(shape), rope.sin.view(shape)
    if half:
        first, second = x.chunk(2, dim=-1)
        partner = _behind(second, first)
    else:
        partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, partner, sin).to(x.dtype)


def _beside(first: Tensor, second: Tensor) -> Tensor:
    """Pairs of neighbors."""
    return torch.stack([first, second], dim=-1).flatten(-2)


def _behind(first: Tensor, second: Tensor) -> Tensor:
    """All first ones of the pairs, then all second ones."""
    return torch.cat([first, second], dim=-1)
