"""Fusion: how pruned tokens come back before the head."""

from cropr_mm.fusion.base import Fusion
from cropr_mm.fusion.concat import SelfAttentionConcat, TokenConcat
from cropr_mm.fusion.cross_attention import CrossAttentionFusion
from cropr_mm.fusion.llf import LastLayerFusion

__all__ = [
    "CrossAttentionFusion",
    "Fusion",
    "LastLayerFusion",
    "SelfAttentionConcat",
    "TokenConcat",
]
