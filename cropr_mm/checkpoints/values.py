"""Numbers that a model cannot use: of another kind, infinite, or NaN."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.messages import some

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_values(weights: Mapping[str, Tensor], target: Mapping[str, Tensor], label: str) -> None:
    """Check kinds of numbers and values of weights before they are copied into a model.

    Args:
        weights: Name -> tensor; each name is in ``target``.
        target: State dict of the model.
        label: What to call the file in messages.

    Raises:
        CheckpointError: If a weight is not dense, or no floating-point number where the model has
            one, or if numbers are infinite or NaN.
    """
    wrong, infinite = [], []
    for name, value in weights.items():
        expected = target[name].dtype
        if value.layout != torch.strided or value.is_meta:
            wrong.append(f"{name} ({'no data' if value.is_meta else value.layout})")
        elif (expected in _FLOATS) != (value.dtype in _FLOATS):
            wrong.append(f"{name} ({value.dtype} for {expected})")
        elif value.dtype in _FLOATS and not bool(value.isfinite().all()):
            infinite.append(name)
    if wrong:
        raise CheckpointError(
            f"{label}: expected plain tensors of the model's kind of numbers, got {some(wrong)}"
        )
    if infinite:
        raise CheckpointError(
            f"{label}: {len(infinite)} of {len(weights)} weights hold numbers that are infinite or "
            f"NaN: {some(infinite)}"
        )
