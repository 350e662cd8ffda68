"""What the command-line tools print: short messages, and no noise of the host libraries."""

import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.engine.errors import is_of_registry, is_out_of_memory, message_of, with_file
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight.errors import SetupError

_FILE_ONLY = (
    "System environment:",
    "Config:\n",
    "Hooks will be executed in the following order",
    "paramwise_options -- ",
    "is not used, all SyncBatchNorm",
    "is skipped since its requires_grad=",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "so skip saving parameter schedulers",
    "The prefix is not set in metric class Dump",
)
_NOISE = (
    r".*pkg_resources.*",
    r".*torch\.meshgrid.*",
    r".*`torch\.cuda\.amp\..*` is deprecated.*",
    r".*The draw is False.*",
    r"FSDP\.state_dict_type\(\) and .* are being deprecated.*",
    r".*faster_coco_eval is not installed.*",
    r".*To copy construct from a tensor.*",
    r".*out of bounds, the drawn .* may not be in the image.*",
)


@contextmanager
def short_errors(
    *kinds: type[Exception], hint: str = "", traceback: bool = False
) -> Iterator[None]:
    """End the program with one line where the input is at fault; keep other tracebacks.

    So it ends where the memory is too small. A TypeError or KeyError is at fault only where a
    config names a class or an argument that does not exist, see :mod:`cropr_mm.engine.errors`.

    Args:
        kinds: Exceptions that stand for such a fault, besides SetupError, CheckpointError and
            OSError (files that are missing, read-only, or too large for the disk).
        hint: What to say to who interrupts it, such as how it goes on.
        traceback: Whether to keep the traceback of every error.
    """
    faults: tuple[type[Exception], ...] = (SetupError, CheckpointError, OSError, *kinds)
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted" + (f"; {hint}" if hint else ""), file=sys.stderr)
        raise SystemExit(130) from None
    except (TypeError, KeyError) as error:
        if traceback or not is_of_registry(error):
            raise
        raise SystemExit(f"error: {message_of(error)}") from None
    except faults as error:
        if traceback:
            raise
        named = with_file(error) if isinstance(error, OSError) else error
        raise SystemExit(f"error: {named}") from None
    except RuntimeError as error:
        if traceback or not is_out_of_memory(error):
            raise
        raise SystemExit(f"error: the memory is too small: {error}") from None


def check_outputs(**files: Path | None) -> None:
    """Refuse files that could not be written at the end, by the name of their option.

    Raises:
        ValueError: If the folder of one does not exist, or it is a folder itself.
        SetupError: If one cannot be written for another reason.
    """
    for option, file in files.items():
        if file and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise ValueError(f"--{option} expects a file in a folder that exists, got {file}")
        if file:
            check_writable(f"--{option}", file)


def is_for_console(record: logging.LogRecord) -> bool:
    """Whether a message is worth the console; environment, config and settings are not."""
    return not any(mark in record.getMessage()[:200] for mark in _FILE_ONLY)


def end_where_log_is_full(handler: logging.FileHandler) -> None:
    """Make a log end the work where a line cannot be written, as on a full disk.

    Python prints a traceback for each such line and goes on.
    """
    print_traceback = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, handler.baseFilename) from error
        print_traceback(record)

    handler.handleError = handle  # type: ignore[method-assign]


def ignore_noise() -> None:
    """Ignore warnings of the host libraries that no user of the tools can act on."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def show_rounds(title: str, rounds: int) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many rounds (files, steps) are done, and when the last one will be.

    Drawn between rounds only: no thread runs beside what is timed. Gone after the last one.

    Yields:
        What to call after each round with the number of rounds that are done.
    """
    short = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a narrow terminal cuts the title
    columns = (
        TextColumn("{task.description}", table_column=short),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left", table_column=Column(no_wrap=True)),
    )
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(f"starting {title}", total=rounds)
        progress.refresh()

        def on_round(done: int) -> None:
            progress.update(task, completed=done, description=title, refresh=True)
            if done == rounds:
                progress.stop()

        yield on_round


def import_quietly(module: str) -> None:
    """Import a part of a host library without what it prints about packages that are absent."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(module)


def print_files(title: str, files: Mapping[str, object]) -> None:
    """Print what was written, by name; None stands for nothing."""
    shown = {name: str(file) for name, file in files.items() if file is not None}
    width = max(map(len, shown))
    print("\n".join([f"{title}. Files:", *(f"  {k.ljust(width)}  {v}" for k, v in shown.items())]))
