"""Outputs are tried before work starts, not when it is done."""

import tempfile
from pathlib import Path

from cropr_mm.engine.preflight.errors import SetupError


def check_writable(option: str, path: str | Path, folder: bool = False) -> None:
    """Find out whether a file or a folder can be written, without leaving anything behind.

    Args:
        option: What gave the path, for the message.
        path: File, or folder, that may not exist yet, nor the folders above it.
        folder: Whether it is a folder.

    Raises:
        SetupError: If it cannot be written, with the reason.
    """
    path = Path(path).absolute()
    if path.exists() and path.is_dir() != folder:
        wanted, got = ("folder", "file") if folder else ("file", "folder")
        raise SetupError(f"{option} expects a {wanted}, got the {got} {path}")
    place = path if folder else path.parent
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(bytes(4096))
            stream.flush()
        if path.is_file():
            path.open("ab").close()
    except OSError as error:
        raise SetupError(f"{option} {path} cannot be written: {error.strerror}") from error
