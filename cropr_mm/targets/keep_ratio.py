"""Share of tokens to keep, for methods that decide token by token.

B images.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.base import AuxiliaryTarget


@TASK_UTILS.register_module()
class KeepRatioTarget(AuxiliaryTarget):
    """As many tokens are kept as the schedule says, on average over images.

    Args:
        weight: Factor of the loss, which is averaged over the steps of the model.

    Raises:
        ValueError: If the weight is not positive.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), equation 13 and its weight in the released
    code (5 for DeiT-B); there the mean over images is inside of the square in the paper and outside
    of it in the code, as here.
    """

    tasks = frozenset({"keep"})
    averaged = True

    def __init__(self, weight: float = 2.0) -> None:
        if not weight > 0:
            raise ValueError(f"expected a positive weight, got {weight}")
        self.weight = weight

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Nothing depends on the images: the differences to reach, zeros, shape (B,)."""
        return torch.zeros(len(data_samples), device=device)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted mean square of differences (B,) between the share kept and the wanted one."""
        return self.weight * (logits.float() - target).square().mean()
