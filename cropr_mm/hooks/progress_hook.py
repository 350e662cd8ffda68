"""Progress of a training in few lines, for a console that shows nothing else."""

import sys
import time

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints loss, pace and time left, also where standard output goes to a file.

    Args:
        num_lines: How many lines a whole training gets.

    Raises:
        ValueError: If ``num_lines`` is below 1.
    """

    priority = "LOWEST"

    def __init__(self, num_lines: int = 20) -> None:
        if num_lines < 1:
            raise ValueError(f"expected num_lines of at least 1, got {num_lines}")
        self.num_lines = num_lines
        self._start = 0.0
        self._first = 0

    @master_only
    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._start, self._first = time.perf_counter(), runner.iter
        say(f"  iterations {runner.iter + 1} to {runner.max_iters}")

    @master_only
    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Print the progress at intervals."""
        done, total = runner.iter + 1, runner.max_iters
        if done % max(1, total // self.num_lines) and done != total:
            return
        pace = (time.perf_counter() - self._start) / (done - self._first)
        loss = ""
        if outputs is not None and "loss" in outputs:
            loss = f"loss {float(outputs['loss'].detach()):6.3f}   "
        say(
            f"  {done:5d}/{total}   {loss}{pace:.2f} s per iteration   "
            f"{minutes(pace * (total - done))} left"
        )


def say(text: str) -> None:
    """Print on the console, whatever ``sys.stdout`` is."""
    print(text, file=sys.__stdout__, flush=True)


def minutes(seconds: float) -> str:
    """Time for people."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
