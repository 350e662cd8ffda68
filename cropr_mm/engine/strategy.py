"""How several processes share a training: copies of the model (DDP) or shards of it (FSDP)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.utils import digit_version
from torch import nn

from cropr_mm.backbones.find import find_vits
from cropr_mm.backbones.lora import adapted_layers
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.runner import ToolRunner
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.messages import some

if TYPE_CHECKING:
    from cropr_mm.engine.sharded_runner import ShardedRunner

_FSDP = "FSDPStrategy"
_KINDS = {_FSDP: "fsdp", "DDPStrategy": "ddp"}
_AT_LEAST = "2.6"  # norms of lists of gradients
_AMP = ("AmpOptimWrapper", "CroprAmpOptimWrapper")
_CLIPS_SHARDS = ("CroprOptimWrapper", "CroprAmpOptimWrapper", "CroprBfloat16OptimWrapper")


def choose_strategy(cfg: Config, strategy: str | None) -> None:
    """Put the strategy of a training into its config, and check that the config goes with it.

    Args:
        cfg: Config; changed in place. Its ``strategy`` is one of mmengine's.
        strategy: 'ddp' or 'fsdp'; None leaves that to the config, whose default is DDP.

    Raises:
        SetupError: If the config names another strategy, or FSDP would not train as the config
            says.
    """
    configured = cfg.get("strategy") or {}
    kind = _name(configured) if configured else "DDPStrategy"
    if kind not in _KINDS:
        raise SetupError(f"expected strategy.type of {' or '.join(_KINDS)}, got {kind}")
    if (strategy or _KINDS[kind]) == "ddp":
        _check_default(configured)
        cfg.pop("strategy", None)
        return
    cfg.strategy = {**(configured if kind == _FSDP else {}), "type": _FSDP}
    cfg.setdefault("env_cfg", dict(dist_cfg=dict(backend="nccl")))
    _check(cfg)
    if _name(cfg.optim_wrapper) in _AMP:
        cfg.optim_wrapper.setdefault("use_fsdp", True)  # of one loss scale for all processes


def is_sharded(cfg: Mapping[str, Any]) -> bool:
    """Whether a config trains with FSDP, once :func:`choose_strategy` has seen it."""
    return cfg.get("strategy") is not None


def runner_class(cfg: Mapping[str, Any]) -> "type[ToolRunner] | type[ShardedRunner]":
    """Class of the runner that trains with a config's strategy."""
    if not is_sharded(cfg):
        return ToolRunner
    from cropr_mm.engine.sharded_runner import ShardedRunner  # imports much of torch

    return ShardedRunner


def check_shardable(model: nn.Module, hooks: Sequence[Hook]) -> None:
    """Check a model and hooks that are built.

    Args:
        model: Unwrapped model.
        hooks: All hooks of the runner.

    Raises:
        SetupError: If the model has scalars, which torch does not shard, or low-rank adapters,
            whose names in checkpoints are not those of their shards, or a hook copies the model,
            which a process has a shard of only.
    """
    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise SetupError(
            f"--strategy fsdp expects parameters with dimensions, got scalars {some(scalars)} in "
            f"{type(model).__name__}: expected --strategy ddp, or another head"
        )
    adapted = [path for path, vit in find_vits(model).items() if adapted_layers(vit)]
    if adapted:
        raise SetupError(
            f"--strategy fsdp cannot write the adapters of {some(adapted)}: expected --strategy "
            "ddp, or a backbone without lora"
        )
    for hook in hooks:
        name = type(hook).__name__
        if isinstance(hook, EMAHook):
            raise SetupError(
                f"{name} averages a copy of the model, and with FSDP no process has a whole one: "
                "expected --strategy ddp, or custom_hooks without it"
            )
        if isinstance(hook, CroprAuxLossHook) and hook.distillation is not None:
            raise SetupError(
                f"the teacher of {name} is a copy of the model, and with FSDP no process has a "
                "whole one: expected --strategy ddp, or no teacher"
            )


def _check(cfg: Config) -> None:
    if digit_version(torch.__version__) < digit_version(_AT_LEAST):
        raise SetupError(
            f"--strategy fsdp expects torch {_AT_LEAST} or later, got {torch.__version__}"
        )
    if cfg.launcher not in ("pytorch", "slurm"):
        raise SetupError(
            "--strategy fsdp shards the model over processes: expected --launcher pytorch or "
            "slurm, as tools/dist_train.sh and tools/slurm_train.sh have, got "
            f"--launcher {cfg.launcher}"
        )
    for entry in ("compile", "sync_bn", "model_wrapper_cfg"):
        if cfg.get(entry):
            raise SetupError(
                f"--strategy fsdp expects a config without {entry}, got {cfg[entry]!r}"
            )
    clip = cfg.optim_wrapper.get("clip_grad") or {}
    wrapper = _name(cfg.optim_wrapper) or "OptimWrapper"
    if clip and clip.get("type", "norm") == "norm" and wrapper not in _CLIPS_SHARDS:
        raise SetupError(
            f"{wrapper} clips by the norm of one process' shards: with --strategy fsdp expected "
            f"optim_wrapper.type of cropr_mm.{' or cropr_mm.'.join(_CLIPS_SHARDS)}, which sum it "
            "over processes"
        )


def _check_default(configured: Mapping[str, Any]) -> None:
    """Settings of DDP stand where the hosts have them."""
    unread = sorted(set(configured) - {"type"})
    if _name(configured) == "DDPStrategy" and unread:
        raise SetupError(
            "DDP has its settings in model_wrapper_cfg and find_unused_parameters: expected "
            f"strategy=dict(type='DDPStrategy') or none, got {', '.join(unread)} in it"
        )


def _name(entry: Mapping[str, Any]) -> str:
    """Name of the class of a config entry, without scope; empty if none is given."""
    kind = entry.get("type", "")
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]
