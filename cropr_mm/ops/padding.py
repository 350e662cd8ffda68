"""Patches that hold padding only."""

from torch import Tensor


def is_padding(img: Tensor, patch_size: int) -> Tensor:
    """Which patches are exactly 0 in every pixel and channel.

    Host libraries pad after normalization, with 0 unless told otherwise; padding of another value
    is not recognized. A patch of the image itself is 0 only if each of its pixels has the very
    color of the mean, which no whole number is where the means are fractions, as the usual ones.

    Args:
        img: Images as the backbone sees them (normalized, then padded), shape (B, C, H, W).
        patch_size: Side of a patch, in pixels; divides H and W.

    Returns:
        By raster id, shape (B, H / patch_size * W / patch_size), bool.
    """
    rows = img.abs().unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return (rows.amax(dim=(1, 3, 5)) == 0).flatten(1)
