"""Let a test prune by a given share, whatever the config says."""

from collections.abc import Sequence

from torch import nn

from cropr_mm.engine.preflight import as_setup_error
from cropr_mm.engine.runner import ToolRunner, unwrapped_model
from cropr_mm.hooks.shares import (
    ForcedShareHook,
    check_plans,
    check_reduces_less,
    check_share,
    set_share,
)


def check_shares(model: nn.Module, shares: Sequence[float]) -> None:
    """Find out whether a model can prune by some shares of its full reduction.

    Raises:
        SetupError: If one is no share, or the model or its schedule does not fit it.
    """
    with as_setup_error():
        for share in shares:
            check_share(share)
        if any(share != 1 for share in shares):
            check_reduces_less(model, "--progress")
        check_plans(model, shares, "--progress")


def force_share(runner: ToolRunner, shares: Sequence[float]) -> ForcedShareHook:
    """Let tests prune by a given share; the largest is in force when the checkpoint is loaded.

    Args:
        runner: Built, its checkpoint not loaded.
        shares: Shares that the returned hook will be given.

    Raises:
        SetupError: If the model cannot prune less, or its schedule does not fit at a share.
    """
    check_shares(unwrapped_model(runner), shares)
    hook = ForcedShareHook(max(shares))
    runner.register_hook(hook)
    set_share(runner, hook.share)
    return hook
