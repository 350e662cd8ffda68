"""How sure a mask head is of its masks."""

from torch import Tensor


def maskness(masks: Tensor, threshold: float) -> Tensor:
    """Mean probability of the cells above a threshold.

    Args:
        masks: Probabilities, shape (R, h, w).
        threshold: In [0, 1).

    Returns:
        Maskness, shape (R,); 0 where no cell is above the threshold.
    """
    inside = masks > threshold
    total = (masks * inside).sum(dim=(1, 2))
    return total / inside.sum(dim=(1, 2)).clamp(min=1)
