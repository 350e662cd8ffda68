"""Token Cropr for OpenMMLab: Vision Transformers that drop the tokens a task does not need."""

from cropr_mm import compat as compat  # makes mmseg:: config inheritance work
from cropr_mm import moved
from cropr_mm.backbones import CroprPVT, CroprViT
from cropr_mm.prune import prune

__all__ = ["CroprPVT", "CroprViT", "__version__", "prune"]

__version__ = "0.2.0"

moved.install()  # old import paths, until 0.3
