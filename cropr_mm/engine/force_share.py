"""Let a test prune by a given share, whatever the config says."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cropr_mm.engine.preflight import as_setup_error, check_plans_of
from cropr_mm.engine.runner import ToolRunner, unwrapped_model
from cropr_mm.hooks.shares import (
    check_plans,
    check_reduces_less,
    check_share,
    set_share,
)


class ForcedShareHook(Hook):
    """Tests at one share, whatever a curriculum says.

    Args:
        shares: Shares of the full reduction, in [0, 1], that tests will have.

    Attributes:
        share: That of the next test; the largest at first.
    """

    priority = "LOWEST"

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = tuple(shares)
        self.share = max(shares)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuse a deployed checkpoint unless it was deployed for every share."""
        for share in self.shares:
            set_share(runner, share)
            label = f"at --progress {share:g}: {runner._load_from}"
            check_plans_of(unwrapped_model(runner), checkpoint["meta"], label)
        set_share(runner, self.share)

    def before_test(self, runner: Runner) -> None:
        """Set the share, after all other hooks."""
        set_share(runner, self.share)


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
    """Let tests prune by given shares; the largest is in force when the checkpoint is loaded.

    Args:
        runner: Built, its checkpoint not loaded.
        shares: Shares that the returned hook will be given.

    Raises:
        SetupError: If the model cannot prune less, or its schedule does not fit at a share.
    """
    check_shares(unwrapped_model(runner), shares)
    hook = ForcedShareHook(shares)
    runner.register_hook(hook)
    set_share(runner, hook.share)
    return hook
