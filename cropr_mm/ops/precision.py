"""Computing in the precision of the operands, whatever surrounds it."""

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: str) -> AbstractContextManager:
    """Switch autocast off: half precision would tie numbers that differ.

    Args:
        device: Type of the device; 'meta', which autocast does not know, needs nothing.
    """
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
