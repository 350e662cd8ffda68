"""A check of the numbers by which images are normalized against the images."""

import warnings
from typing import Any

import torch

from cropr_mm.engine.preflight.errors import SetupError

_LEAST_SPREAD = 2  # levels of 255; common numbers are 50 to 60, or 0.2 for pixels of 0 to 1


def check_pixels(preprocessor: Any, inputs: Any, where: str) -> None:
    """Mean and std of a data preprocessor are for pixels of the range that images have.

    Args:
        preprocessor: Built, with ``mean`` and ``std``; without them nothing is compared.
        inputs: Images of a batch, (3, H, W) each, as loaded; bytes are looked at, and views of
            test-time augmentation are not.
        where: Name of the data for the message.

    Raises:
        SetupError: If ``std`` is not positive. Numbers for pixels of 0 to 1 with images of bytes
            make a warning.
    """
    mean, std = (getattr(preprocessor, name, None) for name in ("mean", "std"))
    if not isinstance(mean, torch.Tensor) or not isinstance(std, torch.Tensor):
        return
    if not bool((std > 0).all()):
        raise SetupError(
            f"model.data_preprocessor.std: expected numbers > 0, got {std.flatten().tolist()}"
        )
    of_bytes = any(getattr(image, "dtype", None) is torch.uint8 for image in inputs)
    if of_bytes and std.max() < _LEAST_SPREAD and mean.max() <= 1:
        warnings.warn(
            "model.data_preprocessor: mean and std are for pixels of 0 to 1, but images of "
            f"{where} have levels of 0 to 255: multiply both by 255",
            stacklevel=2,
        )
