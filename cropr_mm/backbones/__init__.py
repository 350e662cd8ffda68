"""Backbones."""

from cropr_mm.backbones.cropr_vit import CroprViT

__all__ = ["CroprViT"]
