"""Checks of data, model and checkpoint before anything expensive starts."""

from cropr_mm.engine.preflight.adapters import check_adapters
from cropr_mm.engine.preflight.class_folders import check_class_folders, check_same_classes
from cropr_mm.engine.preflight.class_weights import check_class_weights
from cropr_mm.engine.preflight.data import check_data, check_length, loading
from cropr_mm.engine.preflight.deployed import check_plans_of
from cropr_mm.engine.preflight.device import check_device, torch_device
from cropr_mm.engine.preflight.errors import SetupError, as_setup_error
from cropr_mm.engine.preflight.heads import check_channels, check_labels, check_model_config
from cropr_mm.engine.preflight.hooks import check_best, check_hooks, check_steps, check_targets
from cropr_mm.engine.preflight.ignored_labels import check_ignored
from cropr_mm.engine.preflight.image_files import check_files
from cropr_mm.engine.preflight.label_maps import check_label_maps
from cropr_mm.engine.preflight.levels import check_levels
from cropr_mm.engine.preflight.mask_queries import check_mask_queries, check_matching
from cropr_mm.engine.preflight.mixing import check_mixing
from cropr_mm.engine.preflight.model import (
    check_classes,
    check_encoder,
    check_evaluator,
    check_masks,
    check_model,
)
from cropr_mm.engine.preflight.pixels import check_pixels
from cropr_mm.engine.preflight.rates import warn_of_idle_rates

__all__ = [
    "SetupError",
    "as_setup_error",
    "check_adapters",
    "check_best",
    "check_channels",
    "check_class_folders",
    "check_class_weights",
    "check_classes",
    "check_data",
    "check_device",
    "check_encoder",
    "check_evaluator",
    "check_files",
    "check_hooks",
    "check_ignored",
    "check_label_maps",
    "check_labels",
    "check_length",
    "check_levels",
    "check_mask_queries",
    "check_masks",
    "check_matching",
    "check_mixing",
    "check_model",
    "check_model_config",
    "check_pixels",
    "check_plans_of",
    "check_same_classes",
    "check_steps",
    "check_targets",
    "loading",
    "torch_device",
    "warn_of_idle_rates",
]
