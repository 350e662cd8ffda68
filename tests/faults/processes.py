"""tools/train.py in processes of its own, which may end at any point.

They are forks of a server that has imported what takes seconds and has done nothing else: no
thread or setting of earlier tests is in them. A config asks for the end by
``custom_hooks=[dict(type="EndAt", point=...)]``.
"""

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hosts import unformatted_configs
from mmcv.transforms import BaseTransform
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from run_tool import run_tool
from torch.utils.data import get_worker_info

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "mmdet.models", "mmpretrain.models"])


def train_apart(*arguments: object, pair: bool = False) -> int:
    """Train in a process of its own, or in two that work together, and print what they say.

    Args:
        *arguments: Those of tools/train.py.
        pair: Whether there are two; when one fails, the other is ended, as launchers do.

    Returns:
        How it ended: 0 if all is well, else the exit code of the first that failed.
    """
    variables: list[dict[str, object]] = [{}]
    if pair:
        shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=_free_port(), WORLD_SIZE=2)
        variables = [dict(shared, RANK=rank, LOCAL_RANK=rank) for rank in range(2)]
        arguments = (*arguments, "--launcher", "pytorch")
    with tempfile.NamedTemporaryFile("w+") as output:
        running = [
            _FORKS.Process(target=_train, args=(arguments, extra, output.name))
            for extra in variables
        ]
        for process in running:
            process.start()
        failed = 0
        while running:
            ended = wait([process.sentinel for process in running], timeout=300)
            assert ended, "a training ends in minutes"
            for process in [process for process in running if process.sentinel in ended]:
                process.join()
                failed = failed or process.exitcode
                running.remove(process)
            if failed:
                for process in running:
                    process.terminate()
        print(output.read())
    return failed


def _train(arguments: tuple[object, ...], variables: dict[str, object], output: str) -> None:
    """What a process does; it writes to the end of a file."""
    os.environ.update({name: str(value) for name, value in variables.items()})
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    with unformatted_configs():
        run_tool("train.py", *arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@HOOKS.register_module(force=True)
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

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.point == "validation" and runner.iter == 4:
            os.kill(os.getpid(), signal.SIGKILL)


@TRANSFORMS.register_module(force=True)
class EndLoader(BaseTransform):
    """Ends the process that loads data, as a machine without memory does."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return results


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
