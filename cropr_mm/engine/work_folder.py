"""The working folder of a training: one at a time, and nothing of an earlier one is lost."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cropr_mm.engine.preflight import SetupError


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training into a folder inside of the block.

    Raises:
        SetupError: If one does already; it is named.
    """
    with (folder / ".training").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise SetupError(
                f"another training writes to {folder} ({stream.read().strip() or 'unknown process'}"
                "): wait for it, or give another --work-dir"
            ) from None
        except OSError:  # a file system without locks
            pass
        else:
            stream.truncate(0)
            stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            stream.flush()
        yield


def set_aside(folder: Path, keep: str | None = None) -> Path | None:
    """Move the checkpoints of an earlier training out of the way of a new one.

    Args:
        folder: Working folder.
        keep: A file that stays, since the new training starts from it.

    Returns:
        The new folder inside of ``folder`` with them; None if there are none.
    """
    stays = Path(keep).resolve() if keep else None
    patterns = ("iter_*.pth", "epoch_*.pth", "best_*.pth", "last_checkpoint", "random_states.pth")
    files = [file for pattern in patterns for file in folder.glob(pattern)]
    files = [file for file in files if file.resolve() != stays]
    if not any(file.suffix == ".pth" for file in files):
        return None
    target = folder / f"earlier_{time.strftime('%Y%m%d_%H%M%S')}"
    target.mkdir(exist_ok=True)
    for file in files:
        file.rename(target / file.name)
    return target
