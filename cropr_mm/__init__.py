"""Token Cropr for OpenMMLab: Vision Transformers that drop the tokens a task does not need."""

from cropr_mm import compat as compat  # makes mmseg:: config inheritance work

__version__ = "0.1.0"
