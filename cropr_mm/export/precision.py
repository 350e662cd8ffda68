"""An encoder that stores its weights, and computes, in another floating-point type."""

from typing import Any

import torch
from torch import nn

from cropr_mm.backbones.cropr_vit import CroprViT

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def lower_precision(backbone: CroprViT, dtype: torch.dtype) -> None:
    """Bring an encoder to another type, in place; its images and outputs stay float32.

    Scores are float32 in every type (see :meth:`.TokenRanker.score`), and so is what follows the
    encoder: boxes need more than eleven bits.
    """
    backbone.to(dtype)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].to(dtype), *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], outputs: tuple[Any, ...]) -> tuple:
        return tuple(output.float() for output in outputs)

    backbone.register_forward_pre_hook(before)
    backbone.register_forward_hook(after)
