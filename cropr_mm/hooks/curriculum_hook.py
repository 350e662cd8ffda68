"""Prune more and more in the first part of a training."""

import math
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from cropr_mm.hooks.shares import check_reduces_less, set_share
from cropr_mm.registry import HOOKS

STATE = "cropr_curriculum"


@HOOKS.register_module()
class CroprCurriculumHook(Hook):
    """Raises the pruning rate from nothing to that of the schedule.

    Of ``num_steps`` epochs (or iterations), the first ``ramp = floor(end * num_steps)`` have the
    progress ``step / (ramp - 1)`` for step 0, 1, ..., and all others 1. Schedules round the tokens
    that they remove down, so a rate of 40 over 64 epochs is 0, 1, 2, 3, 5, ... 38, 40, and 40 from
    the epoch after the 32nd on. Steps of the class token are not part of it
    (``ConstantRate.absorb_prefix``). With ``start`` the rise begins later, and nothing is pruned
    before; with ``shape='cosine'`` it begins and ends gently. EViT's keep rate of 300 epochs, 10
    of them without pruning and 100 of shrinking, is ``start=10 / 300, end=110 / 300,
    shape='cosine'`` with the schedule ``KeepRatios``.

    The progress is that of every backbone in the model that reduces tokens, and in copies of
    averaged weights, and is logged as ``cropr_progress``. A training that is resumed goes on with
    the length that it began with, also where more epochs or iterations were added. Tests prune
    fully, also with a checkpoint from the middle of a training.

    Args:
        end: Share of the training after which pruning is complete, in (0, 1].
        start: Share of it before which nothing is pruned, in [0, end).
        shape: Rise of the progress: 'linear' or 'cosine'.
        by_epoch: Whether steps are epochs or iterations; loops of iterations need the latter.
        val_progress: Validate with the 'current' progress, as published, or with the 'final' one.

    Raises:
        ValueError: If an argument is out of range; before training, if the model has no backbone
            that prunes, or one whose method has a fixed number of slots, or the train loop does not
            count epochs.

    Source: Token Cropr, for semantic segmentation (the paper begins with 1 token instead of 0);
    segm/segmenter.py of its code. Start and cosine: Liang et al., EViT (arXiv 2202.07800).
    """

    def __init__(
        self,
        end: float = 0.5,
        by_epoch: bool = True,
        val_progress: str = "current",
        start: float = 0.0,
        shape: str = "linear",
    ) -> None:
        if not 0 < end <= 1:
            raise ValueError(f"expected end in (0, 1], got {end}")
        if not 0 <= start < end:
            raise ValueError(f"expected start in [0, end={end}), got {start}")
        if shape not in ("linear", "cosine"):
            raise ValueError(f"expected shape 'linear' or 'cosine', got {shape!r}")
        if val_progress not in ("current", "final"):
            raise ValueError(f"expected val_progress 'current' or 'final', got {val_progress!r}")
        self.end = end
        self.start = start
        self.shape = shape
        self.by_epoch = by_epoch
        self.val_progress = val_progress
        self._progress = 1.0
        self._num_steps = 0  # of the training, also where that was begun by another runner
        self._loaded: dict[str, Any] = {}

    def check(self, model: nn.Module) -> None:
        """Whether the encoders of a model can reduce less than their schedules say.

        Args:
            model: Model, wrapped or not.

        Raises:
            ValueError: If none reduces, or one has a fixed number of slots.
        """
        check_reduces_less(model, type(self).__name__)

    def check_steps(self, runner: Runner) -> None:
        """Whether the train loop counts what this hook counts.

        Args:
            runner: Runner with its train loop.

        Raises:
            ValueError: If the loop has no epochs and ``by_epoch`` is true.
        """
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ValueError(
                "CroprCurriculumHook(by_epoch=True) expects a train loop of epochs, got "
                f"{type(runner.train_loop).__name__}; set by_epoch=False"
            )

    def before_train(self, runner: Runner) -> None:
        """Check the model and find the number of steps."""
        self.check(runner.model)
        self.check_steps(runner)
        self._num_steps = runner.max_epochs if self.by_epoch else runner.max_iters
        # Only a training that goes on has steps behind it; others may start from its weights.
        if runner.iter and self._loaded.get("by_epoch") == self.by_epoch:
            self._num_steps = self._loaded["num_steps"]
        self._advance(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the progress of this epoch."""
        self._advance(runner)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Log the progress; set it where steps are iterations."""
        if not self.by_epoch:
            self._advance(runner)
        runner.message_hub.update_scalar("train/cropr_progress", self._progress)

    def before_val(self, runner: Runner) -> None:
        """Set the progress that validation uses."""
        if self.val_progress == "final":
            set_share(runner, 1.0)

    def after_val(self, runner: Runner) -> None:
        """Set the progress of training again."""
        set_share(runner, self._progress)

    def before_test(self, runner: Runner) -> None:
        """Set the full reduction."""
        set_share(runner, 1.0)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store the state of the curriculum."""
        checkpoint[STATE] = dict(
            by_epoch=self.by_epoch, num_steps=self._num_steps, progress=self._progress
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the stored state."""
        self._loaded = checkpoint.get(STATE) or {}

    def _advance(self, runner: Runner) -> None:
        step = runner.epoch if self.by_epoch else runner.iter
        self._progress = ramp(step, self._num_steps, self.end, self.start, self.shape)
        set_share(runner, self._progress)


def ramp(step: int, num_steps: int, end: float, start: float = 0.0, shape: str = "linear") -> float:
    """Progress of a curriculum at a step, counted from 0.

    Args:
        step: Epoch or iteration.
        num_steps: Length of the training.
        end: Share of it at which the rise ends.
        start: Share of it at which the rise begins.
        shape: 'linear' or 'cosine'.

    Returns:
        From 0 at the first to 1 at the last step of the rise, 0 before and 1 from then on.
    """
    first, last = (math.floor(share * num_steps + 1e-9) for share in (start, end))
    if step >= last:  # 0.29 * 100 is 28.999...
        return 1.0
    if step <= first:
        return 0.0
    share = (step - first) / (last - first - 1)
    return share if shape == "linear" else (1 - math.cos(math.pi * share)) / 2
