"""Strip a training checkpoint to what inference needs."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as HOST_MODELS
from mmengine.registry import init_default_scope
from torch import nn

from cropr_mm.checkpoints.load import check_names, check_shapes
from cropr_mm.checkpoints.safe import safe_load
from cropr_mm.registry import MODELS


class Deployed(NamedTuple):
    """What :func:`deploy_checkpoint` did.

    Attributes:
        file: The new checkpoint.
        encoders: Encoders that were switched, by their names in the model.
        parameters_before: Of the whole model in training.
        parameters_after: Of the whole model as written.
    """

    file: Path
    encoders: tuple[str, ...]
    parameters_before: int
    parameters_after: int

    def __str__(self) -> str:
        saved = 1 - self.parameters_after / self.parameters_before
        return (
            f"Switched {', '.join(self.encoders)} to deploy.\n"
            f"  parameters before  {self.parameters_before:>13,}\n"
            f"  parameters after   {self.parameters_after:>13,}  ({saved:.1%} fewer)\n"
            f"  checkpoint         {self.file}\n"
            f"It loads into the config with {self.encoders[0]}.deploy=True."
        )


def deploy_checkpoint(cfg: Config, checkpoint: str | Path, out: str | Path) -> Deployed:
    """Write the inference form of a training checkpoint.

    Every ``CroprViT`` in the model is switched; optimizer, schedules and logs are left out. The
    result loads strictly into the same config with ``deploy=True`` in the backbone, and its meta
    data hold that config.

    Args:
        cfg: Config of the model, of any task; not changed.
        checkpoint: Training checkpoint of exactly this model, see :func:`safe_load`.
        out: File to write; folders are made, an old file is overwritten.

    Raises:
        ValueError: If the checkpoint is not of this model, if no encoder can be switched, or if
            ``out`` is a folder or the checkpoint itself.
        FileNotFoundError: If there is no such checkpoint.
    """
    out = Path(out)
    if out.is_dir() or out.resolve() == Path(checkpoint).resolve():
        raise ValueError(f"expected another file for the result, got {out}")
    model = _build(cfg)
    encoders = tuple(n for n, m in model.named_modules() if isinstance(m, _encoder_type()))
    if not encoders:
        raise ValueError(f"expected a cropr_mm.CroprViT in {cfg.model.type}, found none")
    content = safe_load(checkpoint)
    weights, wanted = content.get("state_dict", content), model.state_dict()
    missing, unexpected = wanted.keys() - weights.keys(), weights.keys() - wanted.keys()
    check_names(missing, unexpected, f"{checkpoint} is not a checkpoint of this config")
    check_shapes(weights, wanted, str(checkpoint))
    model.load_state_dict(weights, strict=True)

    before = _count(model)
    for name in encoders:
        model.get_submodule(name).switch_to_deploy()
    deployed = copy.deepcopy(cfg)
    _set_deploy(deployed.model)
    meta = {**content.get("meta", {}), "cfg": deployed.pretty_text}
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(meta=meta, state_dict=model.state_dict()), out)
    return Deployed(out, encoders, before, _count(model))


def _build(cfg: Config) -> nn.Module:
    """Model of a config as mmengine's runner builds it."""
    init_default_scope(cfg.get("default_scope") or "mmengine")
    settings = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:
        settings.setdefault("data_preprocessor", cfg.data_preprocessor)
    return HOST_MODELS.build(settings)


def _encoder_type() -> type:
    return MODELS.get("cropr_mm.CroprViT")


def _set_deploy(settings: Any) -> None:
    """Set ``deploy`` in every encoder of a (nested) model config."""
    if isinstance(settings, dict):
        if settings.get("type") in ("cropr_mm.CroprViT", "CroprViT", _encoder_type()):
            settings["deploy"] = True
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for value in settings:
            _set_deploy(value)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
