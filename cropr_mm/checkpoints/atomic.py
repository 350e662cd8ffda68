"""Files that are whole or not there, also after a kill or on a full disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

BACKEND = "cropr_mm.atomic"
_TEMPORARY = ".{}.tmp"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Write a file under a temporary name beside it, sync it to the disk, then rename it.

    Args:
        file: The file to write; an old one stays as it is until the new one is whole.

    Yields:
        Where to write.

    Raises:
        OSError: If the file cannot be written; nothing of it is left then.
    """
    temporary = file.with_name(_TEMPORARY.format(file.name))
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)
    except OSError as error:
        if error.filename is None:  # as on a full disk
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left of files in a folder."""
    for file in folder.glob(_TEMPORARY.format("*")):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last; file systems that cannot do that for folders are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class AtomicBackend(LocalBackend):
    """mmengine's local files, written by :func:`replacing`; it may put removals off."""

    def __init__(self) -> None:
        self._put_off: dict[Path, int] | None = None  # file -> inode

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file under another name and rename it when it is whole."""
        file = Path(filepath)
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_bytes(obj)

    def remove(self, filepath: str | Path) -> None:
        """Remove a file, later while removals are put off."""
        if self._put_off is None:
            super().remove(filepath)
        else:
            self._put_off[Path(filepath)] = Path(filepath).stat().st_ino

    @contextmanager
    def removals_last(self) -> Iterator[None]:
        """Remove files at the end of the block only, unless it fails or writes them anew."""
        put_off: dict[Path, int] = {}
        self._put_off = put_off
        try:
            yield
        finally:
            self._put_off = None
        for file, inode in put_off.items():
            if file.exists() and file.stat().st_ino == inode:
                file.unlink()


register_backend(BACKEND, AtomicBackend, force=True)
