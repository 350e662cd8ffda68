"""Backbones."""

from cropr_mm.backbones.cropr_cvt import CroprCvT
from cropr_mm.backbones.cropr_pvt import CroprPVT
from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.mask_queries import MaskPredictions, MaskQueries

__all__ = ["CroprCvT", "CroprPVT", "CroprViT", "MaskPredictions", "MaskQueries"]
