"""From a training checkpoint to what is deployed, and how that is run."""

from cropr_mm.export.runtime import DeadlineRunner, ExportedModel, ExportError, load

__all__ = ["DeadlineRunner", "ExportError", "ExportedModel", "load"]
