"""Write checkpoints so that a kill, a full disk or a diverged model destroys none of them."""

from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from cropr_mm.checkpoints.atomic import BACKEND, remove_unfinished, replacing
from cropr_mm.hooks.finite_loss_hook import FiniteLossHook
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's hook, but an old checkpoint goes only once the new one is whole on the disk.

    Files are written under a temporary name, synced and renamed, ``last_checkpoint`` too. A
    ``FiniteLossHook`` of the runner is asked before each of them.

    Args:
        interval: As in mmengine: epochs or iterations between two checkpoints; -1: none.
        backend_args: As in mmengine, for storage that is not a local folder.
        **options: All others of mmengine's hook.
    """

    keep_ckpt_ids: deque[int]

    def __init__(
        self, interval: int = -1, *, backend_args: dict[str, Any] | None = None, **options: Any
    ) -> None:
        remote = "://" in str(options.get("out_dir")) or options.get("file_client_args")
        if backend_args is None and not remote:
            backend_args = {"backend": BACKEND}
        super().__init__(interval, backend_args=backend_args, **options)
        self._is_local = backend_args == {"backend": BACKEND}

    def before_train(self, runner: Runner) -> None:
        """Prepare as mmengine does; remove files that an interrupted training left unfinished."""
        super().before_train(runner)
        if self._is_local and is_main_process():
            remove_unfinished(Path(self.out_dir))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        _check_finite(runner)
        name = self.filename_tmpl.format(step)
        kept = self._note_kept(runner, step) if self.max_keep_ckpts > 0 else []
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            with replacing(Path(runner.work_dir, "last_checkpoint")) as temporary:
                temporary.write_text(self.last_ckpt)
            for old in kept[: -self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(old))

    def _note_kept(self, runner: Runner, step: int) -> list[int]:
        """Steps of the checkpoints that are there once this one is, oldest first."""
        kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
        self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        runner.message_hub.update_info("keep_ckpt_ids", kept[-self.max_keep_ckpts :])
        return kept

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        if not self._is_local:
            super()._save_best_checkpoint(runner, metrics)
            return
        with self.file_backend.removals_last():
            super()._save_best_checkpoint(runner, metrics)


def _check_finite(runner: Runner) -> None:
    """Nothing replaces a good checkpoint once a loss or a weight is not finite."""
    for hook in runner.hooks:
        if isinstance(hook, FiniteLossHook):
            hook.check(runner, weights=True)
