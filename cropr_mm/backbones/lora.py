"""Low-rank adapters (LoRA) for the linear layers of an encoder, by peft.

The layers of the encoder are frozen and an adapter beside each of them trains; reducers and fusion
train fully, as do heads outside of the encoder. Names in checkpoints stay: the frozen weight of a
layer is ``<layer>.weight`` as without adapters, and the adapter is ``<layer>.lora_A.weight`` and
``<layer>.lora_B.weight``.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from cropr_mm.checkpoints.new_parts import ADAPTER_SCALE, LORA, is_new

# Linear layers of a block that adapters may stand beside.
TARGETS = ("qkv", "proj", "fc1", "fc2")
_ADAPTER = "default"  # peft's name of the only one
_KEYS = {"r", "alpha", "dropout", "targets"}


def add_adapters(backbone: nn.Module, settings: Mapping[str, Any]) -> None:
    """Freeze an encoder and put adapters beside the linear layers of its blocks, in place.

    Args:
        backbone: Encoder with ``blocks``; its ``reducers`` and ``fusion`` go on training.
        settings: ``r``, the rank; ``alpha``, by which the adapter is scaled as alpha / r (default:
            2 r); ``dropout`` before the adapter (default: 0); ``targets``, names of layers out of
            :data:`TARGETS` (default: all).

    Raises:
        ValueError: If a setting is unknown or out of range, or peft cannot be imported.
    """
    rank, alpha, dropout, targets = _check(settings)
    peft = _import_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        init_lora_weights=True,
    )
    trained = {n for n, p in backbone.named_parameters() if is_new(n) and p.requires_grad}
    peft.inject_adapter_in_model(config, backbone.blocks)
    for layer in adapted_layers(backbone):
        layer._register_state_dict_hook(_to_our_names)
        layer._register_load_state_dict_pre_hook(_to_names_of_peft)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in trained or LORA in name)


def merge_adapters(backbone: nn.Module) -> None:
    """Add every adapter to the weight beside it and take it away, in place."""
    for path, module in list(backbone.named_modules()):
        if hasattr(module, "lora_A"):
            module.merge()
            owner, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(owner), name, module.get_base_layer())


def adapted_layers(backbone: nn.Module) -> list[nn.Module]:
    """Layers with an adapter."""
    return [module for module in backbone.modules() if hasattr(module, "lora_A")]


def adapter_scale(backbone: nn.Module) -> float | None:
    """By what adapters are scaled, alpha / r; None without adapters."""
    layers = adapted_layers(backbone)
    return float(layers[0].scaling[_ADAPTER]) if layers else None


def _check(settings: Mapping[str, Any]) -> tuple[int, float, float, tuple[str, ...]]:
    known = isinstance(settings, Mapping) and set(settings) <= _KEYS
    rank = settings.get("r") if known else None
    if type(rank) is not int or rank < 1:
        raise ValueError(
            f"lora expects dict(r=8), and optionally alpha, dropout and targets, got {settings}"
        )
    targets = settings.get("targets", TARGETS)
    if not isinstance(targets, list | tuple) or not targets or not set(targets) <= set(TARGETS):
        raise ValueError(f"lora expects a list of targets out of {TARGETS}, got {targets!r}")
    alpha, dropout = settings.get("alpha", ADAPTER_SCALE * rank), settings.get("dropout", 0.0)
    numbers = isinstance(alpha, int | float) and isinstance(dropout, int | float)
    if not numbers or not alpha > 0 or not 0 <= dropout < 1:
        raise ValueError(
            f"lora expects alpha > 0 and dropout in [0, 1), got {alpha!r} and {dropout!r}"
        )
    return rank, alpha, dropout, tuple(targets)


def _import_peft() -> ModuleType:
    try:
        return importlib.import_module("peft")
    except Exception as error:  # with an older torch, peft fails in several ways
        raise ValueError(
            "lora needs peft (pip install 'cropr_mm[lora]') and a torch that peft supports, newer "
            f"than 2.1: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _to_our_names(module: nn.Module, weights: dict[str, Any], prefix: str, _: object) -> None:
    for name in [name for name in weights if name.startswith(prefix)]:
        part = name[len(prefix) :]
        new = part.removeprefix("base_layer.").replace(f".{_ADAPTER}.", ".")
        weights[prefix + new] = weights.pop(name)


def _to_names_of_peft(weights: dict[str, Any], prefix: str, *_: object) -> None:
    for part in ("weight", "bias"):
        if prefix + part in weights:
            weights[f"{prefix}base_layer.{part}"] = weights.pop(prefix + part)
        for half in ("lora_A", "lora_B"):
            if f"{prefix}{half}.{part}" in weights:
                weights[f"{prefix}{half}.{_ADAPTER}.{part}"] = weights.pop(f"{prefix}{half}.{part}")
