"""Train one model for every share of its reduction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cropr_mm.hooks.shares import check_plans, check_reduces_less, numbers_of, set_share
from cropr_mm.registry import HOOKS
from cropr_mm.text_table import format_table

STATE = "cropr_elastic"
CYCLE = 3
"""Iterations of one cycle: the least share, a drawn one, the most."""


@HOOKS.register_module()
class CroprElasticHook(Hook):
    """Trains at changing shares of the full reduction, so that one checkpoint serves them all.

    Iterations 0, 1, 2, 3, ... have the least share, a drawn one, the most, the least, and so on.
    With ``accumulative_counts=3`` in the optimizer wrapper each step is the mean over the three
    (the sandwich rule); with 1 each step is of one of them. Draws are uniform in whole percents,
    and depend on seed and iteration alone: they are the same on all processes, and those of a
    resumed training go on as they began. The share is logged as ``cropr_progress``.

    Validation runs once for each share of ``val_progress``. Metrics of the last have their own
    names, those of the others end in ``@0.25``; a table has all of them.

    Args:
        least: Least share, in [0, 1).
        most: Most, in (least, 1].
        val_progress: Shares to validate at, ascending, in [least, most]; None for five of them,
            evenly spread.
        seed: Of the draws, at least 0.

    Raises:
        ValueError: If an argument is out of range; before training, if the model has no backbone
            that prunes, one whose method has a fixed number of slots, or a schedule that does not
            fit at some share, there is a curriculum too, or steps do not hold whole cycles.

    Source: Yu and Huang, Universally slimmable networks (arXiv 1903.05134) for the sandwich rule;
    here the parts of a step see different images, and nothing is distilled.
    """

    priority = "LOW"  # after averaged weights are put in the place of the model's

    def __init__(
        self,
        least: float = 0.0,
        most: float = 1.0,
        val_progress: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 <= least < most <= 1:
            raise ValueError(f"expected 0 <= least < most <= 1, got {least} and {most}")
        if val_progress is None:
            shares = [least + part * (most - least) for part in (0.0, 0.25, 0.5, 0.75, 1.0)]
        else:
            shares = list(val_progress)
        if not shares or shares != sorted(set(shares)) or shares[0] < least or shares[-1] > most:
            raise ValueError(
                f"expected ascending val_progress in [{least:g}, {most:g}], got {shares}"
            )
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"expected a seed of at least 0, got {seed!r}")
        self.least, self.most, self.seed = least, most, seed
        self.val_progress = shares
        self._loaded: dict[str, Any] = {}
        self._progress = most
        self._rows: list[dict[str, Any]] = []

    def check(self, model: nn.Module) -> None:
        """Whether the encoders of a model work at every share that can be drawn or validated.

        Args:
            model: Model, wrapped or not.

        Raises:
            ValueError: If one does not.
        """
        name = type(self).__name__
        check_reduces_less(model, name)
        drawn = [percent / 100 for percent in range(101)]
        within = [share for share in drawn if self.least <= share <= self.most]
        check_plans(model, [self.least, self.most, *within, *self.val_progress], name)

    def check_steps(self, runner: Runner) -> None:
        """Whether every step of the optimizer holds the same shares.

        Args:
            runner: Runner with its train loop.

        Raises:
            ValueError: If steps do not hold whole cycles.
        """
        counts = (runner.cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1)
        if counts > 1 and counts % CYCLE:
            raise ValueError(
                f"CroprElasticHook expects accumulative_counts of 1 or a multiple of {CYCLE}, so "
                f"that every step holds the same shares, got {counts}"
            )

    def before_train(self, runner: Runner) -> None:
        """Check model and optimizer wrapper, and take the seed of a training that goes on."""
        self.check(runner.model)
        self.check_steps(runner)
        if runner.iter and self._loaded:
            self.seed = self._loaded["seed"]

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Set and log the share of this iteration."""
        self._progress = share_at(runner.iter, self.least, self.most, self.seed)
        set_share(runner, self._progress)
        runner.message_hub.update_scalar("train/cropr_progress", self._progress)

    def before_val_epoch(self, runner: Runner) -> None:
        """Validate at all shares but the last, and set that."""
        *others, last = self.val_progress
        self._rows = []
        loop = runner.val_loop
        runner.model.eval()
        for share in others:
            set_share(runner, share)
            for index, batch in enumerate(loop.dataloader):
                loop.run_iter(index, batch)
            metrics = loop.evaluator.evaluate(len(loop.dataloader.dataset))
            self._rows.append(dict(progress=share, **metrics))
            for name in numbers_of(metrics):
                runner.message_hub.update_scalar(f"val/{name}@{share:g}", metrics[name])
        set_share(runner, last)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log one row for each share."""
        self._rows.append(dict(progress=self.val_progress[-1], **(metrics or {})))
        runner.logger.info(f"validated at shares of the full reduction\n{share_table(self._rows)}")

    def after_val(self, runner: Runner) -> None:
        """Set the share of training again."""
        set_share(runner, self._progress)

    def before_test(self, runner: Runner) -> None:
        """Set the most that was trained."""
        set_share(runner, self.most)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Store what the draws depend on."""
        checkpoint[STATE] = dict(seed=self.seed, least=self.least, most=self.most)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the stored state."""
        self._loaded = checkpoint.get(STATE) or {}


def share_at(step: int, least: float, most: float, seed: int) -> float:
    """Share of an iteration, counted from 0.

    Args:
        step: Iteration.
        least: Least share.
        most: Most.
        seed: Of the draws.

    Returns:
        ``least``, a draw between them in whole percents of the full reduction, or ``most``, in
        turn. Whole percents, since a backbone keeps the plan of every share that it has seen.
    """
    phase = step % CYCLE
    if phase != 1:
        return least if phase == 0 else most
    drawn = least + (most - least) * np.random.default_rng([seed, step]).random()
    return float(min(max(round(drawn, 2), least), most))


def share_table(rows: Sequence[dict[str, Any]]) -> str:
    """Text table of numbers by share; ``rows`` have 'progress' and the same metrics."""
    names = numbers_of(rows[0])
    body = [[f"{row[name]:.4g}" for name in names] for row in rows]
    return format_table([names, *body])
