"""Token Cropr for OpenMMLab: Vision Transformers that drop the tokens a task does not need.

The names below are imported on first use: a program that only reads options, or runs an exported
model, waits for neither torch nor the host libraries.
"""

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from cropr_mm import moved

if TYPE_CHECKING:
    from cropr_mm.backbones import CroprCvT, CroprPVT, CroprViT
    from cropr_mm.pruning import prune

__all__ = ["CroprCvT", "CroprPVT", "CroprViT", "__version__", "prune"]

__version__ = "0.2.0"

_BACKBONES = ("CroprCvT", "CroprPVT", "CroprViT")
_MODULES = {**dict.fromkeys(_BACKBONES, "backbones"), "prune": "pruning"}

with suppress(ModuleNotFoundError):  # exported models run where mmengine is absent
    import_module("cropr_mm.compat")  # lets configs inherit from mmseg on both lines
moved.install()  # old import paths, until 0.3


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
