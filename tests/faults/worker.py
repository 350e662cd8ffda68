"""tools/train.py in a process that may end at any point: ``worker.py ARGUMENT ...``.

A config asks for the end by ``custom_hooks=[dict(type="EndAt", point=...)]``.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

sys.path.append(str(Path(__file__).parents[1] / "e2e"))
from run_tool import run_tool


@HOOKS.register_module()
class EndAt(Hook):
    """Ends the process in the third iteration, in the second validation, or while it saves.

    Args:
        point: 'iteration', 'rank' (the same in the second process only), 'ctrl-c' (the same by an
            interrupt), 'validation', or 'save' (half of the second checkpoint is written).
    """

    def __init__(self, point: str) -> None:
        self.point = point
        if point == "save":
            end_while_saving()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter != 2:
            return
        if self.point == "iteration" or (self.point == "rank" and get_rank() == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.point == "ctrl-c":
            # Shells start processes in the background with interrupts ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGINT)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.point == "validation" and runner.iter == 4:
            os.kill(os.getpid(), signal.SIGKILL)


def end_while_saving() -> None:
    """End the process when half of the second checkpoint is written."""
    write = Path.write_bytes

    def write_half(file: Path, data: bytes) -> int:
        if "iter_4.pth" not in file.name:
            return write(file, data)
        write(file, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    Path.write_bytes = write_half  # type: ignore[method-assign]


if __name__ == "__main__":
    run_tool("train.py", *sys.argv[1:])
