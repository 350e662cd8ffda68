"""Which parameters of a model are trained: all, or those of its reducers alone."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import Tensor, nn

from cropr_mm.engine.options import add_hook
from cropr_mm.engine.preflight import SetupError
from cropr_mm.messages import some

_HOOK = "cropr_mm.CroprRouterHook"
_DECIDE = ("cropr_mm.CroprCurriculumHook", "cropr_mm.CroprElasticHook")


def train_routers(cfg: Config, progress: float | None = None) -> None:
    """Train the reducers of a config's model and nothing else.

    Args:
        cfg: Config; changed in place.
        progress: Share of the full reduction meanwhile, in [0, 1]. Default: that of a curriculum
            or of elastic training, if the config has one, or 0: each module learns from the
            features of its block in the dense model.

    Raises:
        SetupError: If it is out of range, or two decide.
    """
    deciding = [hook["type"] for hook in cfg.get("custom_hooks") or [] if hook["type"] in _DECIDE]
    if progress is not None and deciding:
        raise SetupError(
            f"{deciding[0]} in custom_hooks decides how much is pruned: expected no --progress, "
            f"got {progress}"
        )
    if progress is not None and not 0 <= progress <= 1:
        raise SetupError(f"expected --progress in [0, 1], got {progress}")
    share = None if deciding else progress or 0.0
    add_hook(cfg, _HOOK, progress=share)


def trains_routers(cfg: Mapping[str, Any]) -> bool:
    """Whether the hooks of a config say so."""
    return any(_type(hook) == _HOOK for hook in cfg.get("custom_hooks") or [])


def check_frozen(model: nn.Module, weights: Mapping[str, Tensor], label: str) -> None:
    """Everything that stays frozen comes from the checkpoint.

    Args:
        model: Model.
        weights: Name in the model -> tensor.
        label: What to call the checkpoint in messages.

    Raises:
        SetupError: If something outside of the reducers is missing or has another shape.
    """
    wanted = {n: v for n, v in model.state_dict().items() if ".reducers." not in f".{n}"}
    missing = sorted(
        n for n, v in wanted.items() if n not in weights or weights[n].shape != v.shape
    )
    if missing:
        raise SetupError(
            f"{label}: --trainable routers trains reducers alone and expects all else from the "
            f"checkpoint; {len(missing)} of {len(wanted)} tensors are missing or have another "
            f"shape: {some(missing)}"
        )


def _type(hook: Any) -> Any:
    return hook.get("type") if isinstance(hook, Mapping) else None
