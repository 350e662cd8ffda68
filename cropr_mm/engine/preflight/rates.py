"""Rates of parts of a model that no part has: mmengine passes over them in silence."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from mmengine.registry import OPTIMIZERS
from torch import nn

from cropr_mm.checkpoints.new_parts import NEW_MODULES
from cropr_mm.messages import some

_DEFAULT = "DefaultOptimWrapperConstructor"  # of mmengine, and what it reads:
_OPTIONS = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)


def warn_of_idle_rates(model: nn.Module, optim_wrapper: Mapping[str, Any]) -> None:
    """Warn of entries of ``paramwise_cfg`` that change no parameter.

    Keys of reducers and of other new parts pass: a dense model shares them with its pruned twin.

    Args:
        model: Unwrapped model.
        optim_wrapper: That entry of a config.
    """
    settings = optim_wrapper.get("paramwise_cfg") or {}
    if optim_wrapper.get("constructor", _DEFAULT) == _DEFAULT:
        unread = sorted(set(settings) - set(_OPTIONS))
        if unread:
            warnings.warn(
                f"nothing reads {some(unread)} in optim_wrapper.paramwise_cfg: expected some of "
                f"{', '.join(_OPTIONS)}",
                stacklevel=2,
            )
    custom = settings.get("custom_keys") or {}
    _warn_of_unread(custom, optim_wrapper.get("optimizer") or {})
    names = [name for name, _ in model.named_parameters()]
    idle = [
        key
        for key in custom
        if not any(key in name for name in names) and not set(key.split(".")) & set(NEW_MODULES)
    ]
    if idle:
        parts = ", ".join(name for name, _ in model.named_children())
        warnings.warn(
            f"optim_wrapper.paramwise_cfg.custom_keys: no parameter has {some(idle)} in its name "
            f"(parts of {type(model).__name__}: {parts})",
            stacklevel=2,
        )


def _warn_of_unread(custom: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
    """Warn of what is said of parameters that neither the constructor nor the optimizer reads."""
    kind = optimizer.get("type")
    if isinstance(kind, str):  # in configs of Python's own import it is the class
        kind = OPTIMIZERS.get(kind)
    if kind is None:
        return
    read = ["lr_mult", "decay_mult", *inspect.signature(kind).parameters]
    unread = sorted({name for rates in custom.values() for name in rates} - set(read))
    if unread:
        warnings.warn(
            f"nothing reads {some(unread)} in optim_wrapper.paramwise_cfg.custom_keys: expected "
            f"lr_mult, decay_mult or an option of {kind.__name__}",
            stacklevel=3,
        )
