"""Dimensions of CvT.

Source: Wu et al., CvT (arXiv 2103.15808).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class CvtArch(NamedTuple):
    """Dimensions by stage: widths, numbers of blocks and of attention heads."""

    embed_dims: Sequence[int]
    depths: Sequence[int]
    num_heads: Sequence[int]


ARCHS = {
    "cvt_13": CvtArch((64, 192, 384), (1, 2, 10), (1, 3, 6)),
    "cvt_21": CvtArch((64, 192, 384), (1, 4, 16), (1, 3, 6)),
    "cvt_w24": CvtArch((192, 768, 1024), (2, 2, 20), (3, 12, 16)),
}


def resolve_cvt(arch: str | Mapping[str, Sequence[int]]) -> CvtArch:
    """Dimensions of a name or of a dict; ValueError if there are none or they do not fit."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f"arch must be one of {', '.join(ARCHS)}, or a dict; got {arch!r}")
        return ARCHS[arch]
    if set(arch) != set(CvtArch._fields):
        raise ValueError(f"arch as a dict takes {', '.join(CvtArch._fields)}; got {sorted(arch)}")
    dims = CvtArch(**arch)
    if not len(dims.embed_dims) == len(dims.depths) == len(dims.num_heads) > 0:
        raise ValueError(f"arch needs one entry for each stage, got {dims}")
    if any(dim % heads for dim, heads in zip(dims.embed_dims, dims.num_heads, strict=True)):
        raise ValueError(f"arch needs widths that are multiples of num_heads, got {dims}")
    return dims
