"""Backbones."""

from cropr_mm.backbones.cropr_pvt import CroprPVT
from cropr_mm.backbones.cropr_vit import CroprViT

__all__ = ["CroprPVT", "CroprViT"]
