"""Checkpoints: loading that runs no code, and names of other projects turned into ours."""

from cropr_mm.checkpoints.cvt import load_cvt
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.load import load_backbone
from cropr_mm.checkpoints.pvt import load_pvt
from cropr_mm.checkpoints.safe import safe_load
from cropr_mm.checkpoints.schemes import register_safe_loader
from cropr_mm.checkpoints.timm import from_timm, to_timm

__all__ = [
    "CheckpointError",
    "from_timm",
    "load_backbone",
    "load_cvt",
    "load_pvt",
    "register_safe_loader",
    "safe_load",
    "to_timm",
]
