"""Optimizer set-up: layer-wise learning rates, and gradient clipping by groups."""

from cropr_mm.optim.clip_groups import (
    CroprAmpOptimWrapper,
    CroprBfloat16OptimWrapper,
    CroprOptimWrapper,
)
from cropr_mm.optim.layer_decay import LayerDecayConstructor

__all__ = [
    "CroprAmpOptimWrapper",
    "CroprBfloat16OptimWrapper",
    "CroprOptimWrapper",
    "LayerDecayConstructor",
]
