"""From a training checkpoint to what is deployed, and how that is run."""

from cropr_mm.export.runtime import ExportedModel, ExportError, load

__all__ = ["ExportError", "ExportedModel", "load"]
