"""Hooks that every training of the tools has, whatever its config says."""

from typing import Any

from mmengine.config import Config

_HOOKS = {
    "finite_loss": "cropr_mm.FiniteLossHook",
    "random_state": "cropr_mm.RandomStateHook",
}


def add_safeguards(cfg: Config) -> None:
    """Write checkpoints so that none is lost, stop at losses that are not finite, resume exactly.

    mmengine's ``CheckpointHook`` is replaced with the same settings; hooks of these kinds that the
    config has stay as they are.

    Args:
        cfg: Config of a training; changed in place.
    """
    hooks = cfg.get("default_hooks") or {}
    hooks = {"checkpoint": dict(type="CheckpointHook", interval=1), **hooks}
    hooks = {name: _atomic(hook) for name, hook in hooks.items()}
    cfg.custom_hooks = [_atomic(hook) for hook in cfg.get("custom_hooks") or []]
    present = {_kind(hook) for hook in [*hooks.values(), *cfg.custom_hooks]}
    missing = {name: dict(type=t) for name, t in _HOOKS.items() if t.split(".")[1] not in present}
    cfg.default_hooks = {**missing, **hooks}


def _atomic(hook: Any) -> Any:
    """The same settings for our hook, where this is mmengine's that writes checkpoints."""
    if _kind(hook) != "CheckpointHook":
        return hook
    return {**hook, "type": "cropr_mm.AtomicCheckpointHook"}


def _kind(hook: Any) -> str:
    """Name of a hook's class, without the scope of its registry."""
    kind = hook.get("type") if hasattr(hook, "get") else type(hook)
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]
