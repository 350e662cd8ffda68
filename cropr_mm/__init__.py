"""Token Cropr for OpenMMLab: Vision Transformers that drop the tokens a task does not need."""

__version__ = "0.1.0"
