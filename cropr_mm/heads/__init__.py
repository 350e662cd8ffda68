"""Heads on regions of interest, for detectors of mmdet."""

from cropr_mm.heads.cascade_roi_head import SharedMaskCascadeRoIHead
from cropr_mm.heads.mask_head import ConvUpsampleMaskHead

__all__ = ["ConvUpsampleMaskHead", "SharedMaskCascadeRoIHead"]
