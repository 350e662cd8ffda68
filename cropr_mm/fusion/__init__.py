"""Fusion: how pruned tokens come back before the head."""

from cropr_mm.fusion.llf import LastLayerFusion

__all__ = ["LastLayerFusion"]
