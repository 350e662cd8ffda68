"""Build the model of a whole config, outside of a runner."""

import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn


def build_model(cfg: Config, device: str = "cpu") -> nn.Module:
    """Model of a config as mmengine's runner builds it, weights not initialised.

    Args:
        cfg: Config of any host library; not changed. Its default scope becomes the current one.
        device: Where parameters are made; 'meta' needs no memory for them.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    settings = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        settings.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    with torch.device(device):
        # Some layers of mmdet make their parameters on the CPU, whatever the default device.
        return MODELS.build(settings).to(device)
