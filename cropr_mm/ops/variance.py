"""Pixel statistics of image patches."""

from torch import Tensor


def patch_variance(img: Tensor, patch_size: int) -> Tensor:
    """Variance of the pixels inside each patch.

    Args:
        img: Images as the backbone sees them (normalized), shape (B, C, H, W).
        patch_size: Side of a patch, in pixels; divides H and W.

    Returns:
        Biased variance by raster id, shape (B, H / patch_size * W / patch_size, C), float32.
    """
    rows = img.float().unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return rows.var(dim=(3, 5), correction=0).flatten(2).transpose(1, 2)
