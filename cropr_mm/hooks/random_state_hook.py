"""A resumed training draws the random numbers that an uninterrupted one would have drawn."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner

from cropr_mm.checkpoints import CheckpointError, safe_load
from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.registry import HOOKS

FILE = "random_states.pth"


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Keeps the states of all random generators beside the checkpoints, and restores them.

    Those of Python, numpy, torch and the current CUDA device, of every process, are written to
    ``random_states.pth`` after each checkpoint, and once more after the validation that follows it,
    which draws numbers too. A validation that did not end starts anew before training goes on.
    Data workers draw from generators of their own: those that outlive an epoch
    (``persistent_workers``, and all of a loop of iterations) start anew, which is logged. Their
    start takes no number from the generators of the model.
    """

    priority = "LOWEST"  # after the checkpoint

    def __init__(self) -> None:
        self._saved: str | None = None  # the newest checkpoint
        self._fresh = False  # no iteration since then
        self._pending: dict[str, Any] | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the random state of the checkpoint that training goes on from."""
        _seed_persistent_workers(runner)
        self._saved = runner.message_hub.runtime_info.get("last_ckpt")
        self._pending = self._find(runner) if runner.iter else None
        checkpoint = Path(str(runner._load_from))
        if self._pending is not None and is_not_validated(runner, checkpoint, runner.iter):
            runner.logger.warning(
                f"the validation after {checkpoint.name} did not end: it starts anew"
            )
            set_random_state(self._pending)
            runner.val_loop.run()
            self._pending = random_state()
        if self._pending is not None and isinstance(runner.train_loop, IterBasedTrainLoop):
            loop = runner.train_loop
            # Older versions of mmengine load all batches again that were seen.
            seen = 0 if hasattr(loop.dataloader_iterator, "skip_iter") else runner.iter
            loop.dataloader_iterator = _Restoring(loop.dataloader_iterator, self._pending, seen)
            self._pending = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Restore the random state of a resumed training."""
        if self._pending is not None:
            set_random_state(self._pending)
            self._pending = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Forget that a checkpoint was just written."""
        self._fresh = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write the random state beside a checkpoint that was just written."""
        self._note(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the random state beside a checkpoint that was just written."""
        self._note(runner)

    def after_val(self, runner: Runner) -> None:
        """Write the state again where a checkpoint came right before this validation."""
        if self._fresh:
            self._write(runner, validated=True)

    def _note(self, runner: Runner) -> None:
        """Write the states if a checkpoint was just written."""
        saved = runner.message_hub.runtime_info.get("last_ckpt")
        if saved != self._saved:
            self._saved, self._fresh = saved, True
            self._write(runner, validated=False)

    def _write(self, runner: Runner, validated: bool) -> None:
        states = all_gather_object({**random_state(), "validated": validated})
        if self._saved is None or not is_main_process() or "://" in self._saved:
            return
        file = Path(self._saved).with_name(FILE)
        kept = {n: s for n, s in _read(file).items() if file.with_name(n).exists()}
        with replacing(file) as temporary:
            torch.save({**kept, Path(self._saved).name: states}, temporary)

    def _find(self, runner: Runner) -> dict[str, Any] | None:
        """State of this process at the checkpoint that the training goes on from."""
        checkpoint = Path(str(runner._load_from))
        states = _read(checkpoint.with_name(FILE)).get(checkpoint.name, [])
        rank = get_rank()
        if len(states) <= rank:
            runner.logger.warning(
                f"random numbers start anew: {checkpoint.with_name(FILE)} has no state of "
                f"{checkpoint.name} for process {rank}"
            )
            return None
        if without := _workers_start_anew(runner):
            runner.logger.warning(
                "random numbers of the data workers start anew, those of the model go on; both are "
                f"those of an uninterrupted training with train_dataloader.{without}"
            )
        return states[rank]


class _Restoring:
    """Iterator over batches that restores generators before the first one that is trained on."""

    def __init__(self, batches: Any, state: dict[str, Any], seen: int) -> None:
        self._batches = batches
        self._state: dict[str, Any] | None = state
        self._seen = seen

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._state is not None and self._seen == 0:
            # Made at the first iteration of the whole training, and draws a number then.
            getattr(self._batches, "_ensure_iterator", lambda: None)()
            set_random_state(self._state)
            self._state = None
        self._seen -= 1
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        """Skip batches as mmengine does."""
        self._batches.skip_iter(num_iters)


def random_state() -> dict[str, Any]:
    """States of the generators of this process."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - hosts draw from it
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators of this process to what :func:`random_state` returned."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def is_not_validated(runner: Runner, checkpoint: Path, iteration: int) -> bool:
    """Whether a validation followed a checkpoint and did not end.

    Args:
        runner: Runner with its loops.
        checkpoint: File that the training goes on from.
        iteration: Iterations that it has behind it.
    """
    states = _read(checkpoint.with_name(FILE)).get(checkpoint.name, [])
    # Older files do not tell.
    if runner.val_loop is None or all(state.get("validated", True) for state in states):
        return False
    loop = runner.train_loop
    done, last, rest = iteration, loop.max_iters, 0
    if not isinstance(loop, IterBasedTrainLoop):
        last = loop.max_epochs
        done, rest = divmod(iteration, len(loop.dataloader))
    return not rest and done >= loop.val_begin and (done % loop.val_interval == 0 or done == last)


def _read(file: Path) -> dict[str, Any]:
    """What a file of states holds; nothing if there is none, or a damaged one."""
    try:
        return safe_load(file)
    except (FileNotFoundError, CheckpointError):
        return {}


def _workers_start_anew(runner: Runner) -> str | None:
    """The setting without which they would not; None if they do not."""
    loader = runner.train_dataloader
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return "num_workers=0" if loader.num_workers else None
    return "persistent_workers=False" if loader.persistent_workers else None


def _seed_persistent_workers(runner: Runner) -> None:
    """Give loaders whose workers outlive an epoch a generator of their own.

    They take a number from it when they start: once in a training, and once more when it goes on,
    which would shift all numbers of the model.
    """
    for loop in (runner.train_loop, runner.val_loop):
        loader: Any = getattr(loop, "dataloader", None)
        if getattr(loader, "persistent_workers", False):
            loader.generator = torch.Generator().manual_seed(runner.seed + get_rank())
