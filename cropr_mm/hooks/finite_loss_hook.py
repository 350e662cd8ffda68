"""Stop a training whose loss is not a finite number, before it replaces a good checkpoint."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from cropr_mm.registry import HOOKS

_NEVER = 2**62  # no training has that many iterations
_SHOWN = 4


class NonFiniteError(ArithmeticError):
    """Losses or weights became infinite or NaN; the message needs no traceback."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Notes on the device when a loss is NaN or infinite, and stops the training at a reading.

    Nothing waits for the device in an iteration: the note is read every ``interval`` iterations,
    before validation and, with all weights, before every checkpoint (``AtomicCheckpointHook``).
    All processes stop together. Under a loss scaler, whose steps are skipped where gradients
    overflow, only ``patience`` such iterations in a row count.

    Args:
        interval: Iterations between readings.
        patience: Iterations in a row that a loss scaler may skip.

    Raises:
        ValueError: If an argument is not positive.
        NonFiniteError: While training, with iteration, losses, and the images of that batch.
    """

    priority = "LOW"

    def __init__(self, interval: int = 50, patience: int = 20) -> None:
        if min(interval, patience) < 1:
            raise ValueError(
                f"expected interval >= 1 and patience >= 1, got {interval} and {patience}"
            )
        self.interval = interval
        self.patience = patience
        self._notes: dict[tuple[str, ...], _Note] = {}
        self._files: deque[tuple[int, list[str]]] = deque(maxlen=interval)

    def before_train(self, runner: Runner) -> None:
        """Forget the notes of an earlier training."""
        self._notes.clear()
        self._files.clear()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Note the losses, and check them at intervals."""
        losses = {
            name: value.detach().float().reshape(())
            for name, value in (outputs or {}).items()
            if "loss" in name and isinstance(value, Tensor) and value.numel() == 1
        }
        if not losses:
            return
        step = runner.iter + 1
        self._files.append((step, _files(data_batch)))
        names = tuple(losses)
        note = self._notes.get(names)
        values = torch.stack([*losses.values()])
        self._notes[names] = (note or _Note.empty(values)).noting(values, step, _skips(runner))
        if step % self.interval == 0:
            self.check(runner)

    def before_val(self, runner: Runner) -> None:
        """Check the noted losses."""
        if self._notes:
            self.check(runner)

    def check(self, runner: Runner, weights: bool = False) -> None:
        """Read what was noted, in all processes; waits for the device.

        Args:
            runner: The runner.
            weights: Also look at every parameter.

        Raises:
            NonFiniteError: If losses, or weights, of any process are not finite.
        """
        limit = self.patience if _skips(runner) else 1
        faults: dict[str, tuple[int, float]] = {}
        for names, note in self._notes.items():
            faults |= note.faults(names, limit)
        first = min((step for step, _ in faults.values()), default=_NEVER)
        noted = torch.tensor(first)
        all_reduce(noted, op="min")
        if int(noted) < _NEVER:
            mine = self._describe(first, faults) if faults else ""
            texts = [text for text in all_gather_object(mine) if text]
            raise NonFiniteError(f"{'; '.join(texts)}. {_advice(runner)}")
        if not weights:
            return
        finite = torch.tensor(int(_all_finite(runner.model)))
        all_reduce(finite, op="min")  # a process may have a shard of them only
        if not finite:
            raise NonFiniteError(
                f"weights of the model are not finite after iteration {runner.iter + 1}, though "
                f"its losses are. {_advice(runner)}"
            )

    def _describe(self, step: int, faults: Mapping[str, tuple[int, float]]) -> str:
        losses = ", ".join(f"{name} {value}" for name, (at, value) in faults.items() if at == step)
        files = next((files for at, files in self._files if at == step), [])
        more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        images = f"; images of that batch: {', '.join(files[:_SHOWN])}{more}" if files else ""
        return f"a loss is not finite in iteration {step}: {losses}{images}"


class _Note(NamedTuple):
    """Of each loss, on its device: how often, when first, and what it was then; shape (n,)."""

    count: Tensor
    first: Tensor
    value: Tensor

    @classmethod
    def empty(cls, values: Tensor) -> "_Note":
        zeros = torch.zeros_like(values, dtype=torch.int64)
        return cls(zeros, zeros, values)

    def noting(self, values: Tensor, step: int, consecutive: bool) -> "_Note":
        """With one more iteration; finite losses end a row of others where only rows count."""
        bad = ~values.isfinite()
        count = torch.where(bad, self.count + 1, 0 if consecutive else self.count)
        new = bad & (count == 1)
        return _Note(count, self.first.masked_fill(new, step), torch.where(new, values, self.value))

    def faults(self, names: Sequence[str], limit: int) -> dict[str, tuple[int, float]]:
        """First iteration and value of each loss that was not finite ``limit`` times."""
        rows = zip(
            names, self.count.tolist(), self.first.tolist(), self.value.tolist(), strict=True
        )
        return {name: (first, value) for name, count, first, value in rows if count >= limit}


def _skips(runner: Runner) -> bool:
    """Whether a loss scaler skips steps whose gradients are not finite."""
    scaler = getattr(runner.optim_wrapper, "loss_scaler", None)
    return scaler is not None and scaler.is_enabled()


def _files(batch: Any) -> list[str]:
    """Files of the images in a batch, where its samples name them."""
    samples = batch.get("data_samples") if isinstance(batch, Mapping) else None
    if not isinstance(samples, (list, tuple)):
        return []
    paths = [getattr(sample, "img_path", None) for sample in samples]
    return [str(path) for path in paths if path is not None]


def _all_finite(model: nn.Module) -> bool:
    if is_model_wrapper(model):
        model = model.module
    flags = [p.detach().isfinite().all() for p in model.parameters() if p.is_floating_point()]
    return not flags or bool(torch.stack(flags).all())


def _advice(runner: Runner) -> str:
    last = runner.message_hub.runtime_info.get("last_ckpt")
    kept = f"The last checkpoint, {last}, is from before" if last else "No checkpoint was written"
    return f"{kept}; a lower learning rate or clipped gradients may help"
