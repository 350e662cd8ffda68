"""Targets of the auxiliary losses: data samples of a host library to what auxiliary heads learn."""

from cropr_mm.targets.base import AuxiliaryTarget, LabelTarget
from cropr_mm.targets.build_target import build_target
from cropr_mm.targets.class_label import ClassTarget
from cropr_mm.targets.grid_multi_label import GridMultiLabelTarget
from cropr_mm.targets.keep_ratio import KeepRatioTarget
from cropr_mm.targets.multi_label import MultiLabelTarget
from cropr_mm.targets.patch_label import PatchLabelTarget
from cropr_mm.targets.patch_mask import PatchMaskTarget

__all__ = [
    "AuxiliaryTarget",
    "ClassTarget",
    "GridMultiLabelTarget",
    "KeepRatioTarget",
    "LabelTarget",
    "MultiLabelTarget",
    "PatchLabelTarget",
    "PatchMaskTarget",
    "build_target",
]
