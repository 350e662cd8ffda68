"""Models on the meta device: no weights and no data exist there, so any image size works."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


def check_on_meta(module: nn.Module) -> None:
    """Raise ValueError unless a module is on the meta device, in evaluation mode."""
    device = next(module.parameters()).device.type
    if device != "meta" or module.training:
        mode = "training" if module.training else "evaluation"
        raise ValueError(
            f"expected a model on the meta device in evaluation mode, got {device} in {mode} mode"
        )


def meta_image(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """One image of a height and width, with the channels that the first convolution takes."""
    convolution = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    return torch.empty(1, convolution.in_channels, *size, device="meta")


def meta_twin(module: nn.Module) -> nn.Module:
    """Copy of a module on the meta device, in evaluation mode; it takes no memory."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo).eval()


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of parameters as trained and as deployed."""
    trained, stripped = (
        sum(p.numel() for p in m.parameters()) for m in (module, deployed_twin(module))
    )
    return trained, stripped


def deployed_twin(module: nn.Module) -> nn.Module:
    """Copy of an encoder, or of a model, whose encoder is stripped for inference."""
    deployed = copy.deepcopy(module)
    backbone = getattr(deployed, "backbone", deployed)
    if hasattr(backbone, "switch_to_deploy"):
        backbone.switch_to_deploy()
    return deployed
