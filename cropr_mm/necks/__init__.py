"""Necks between the backbone and the heads of the host libraries."""

from cropr_mm.necks.simple_fpn import SimpleFPN

__all__ = ["SimpleFPN"]
