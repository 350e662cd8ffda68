"""Checkpoints: loading that runs no code, and names of other projects turned into ours."""

from cropr_mm.checkpoints.safe import safe_load
from cropr_mm.checkpoints.schemes import register_safe_loader

__all__ = ["register_safe_loader", "safe_load"]
