"""Fusion: how pruned tokens come back before the head."""

from cropr_mm.fusion.base import Fusion
from cropr_mm.fusion.concat import SelfAttentionConcat, TokenConcat
from cropr_mm.fusion.cross_attention import CrossAttentionFusion
from cropr_mm.fusion.llf import LastLayerFusion
from cropr_mm.fusion.shortcut import ShortcutFusion

__all__ = [
    "CrossAttentionFusion",
    "Fusion",
    "LastLayerFusion",
    "SelfAttentionConcat",
    "ShortcutFusion",
    "TokenConcat",
]
