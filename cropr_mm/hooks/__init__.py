"""Hooks for mmengine's runner."""

from cropr_mm.hooks.aux_loss import CroprAuxLossHook

__all__ = ["CroprAuxLossHook"]
