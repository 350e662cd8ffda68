"""Build the model of a whole config, outside of a runner."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode

from cropr_mm.classes import share_classes


def build_model(cfg: Config, device: str = "cpu") -> nn.Module:
    """Model of a config as mmengine's runner builds it, weights not initialized.

    The reducer has the number of classes of the heads where its config has none.

    Args:
        cfg: Config of any host library; not changed. Its default scope becomes the current one.
        device: Where parameters are made; 'meta' needs no memory for them.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    settings = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        settings.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    share_classes(settings)
    with torch.device(device), _NumbersOnCpu():
        # Some layers of mmdet make their parameters on the CPU, whatever the default device.
        return MODELS.build(settings).to(device)


class _NumbersOnCpu(TorchFunctionMode):
    """Lets constructors compute numbers, such as rates of stochastic depth, on any device."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)
