"""Runs exported models: on numpy, pillow and the standard library, and the model's own runtime.

Nothing here imports torch or a host library; a test holds that. H, W pixels; h, w those of an
image before anything is done to it.
"""

from cropr_mm.export.runtime.card import Card, Input
from cropr_mm.export.runtime.deadline import DeadlineReport, DeadlineRunner
from cropr_mm.export.runtime.errors import ExportError
from cropr_mm.export.runtime.model import ExportedModel, load

__all__ = [
    "Card",
    "DeadlineReport",
    "DeadlineRunner",
    "ExportError",
    "ExportedModel",
    "Input",
    "load",
]
