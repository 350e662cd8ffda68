"""Checksums of checkpoint files, which torch writes but does not compare."""

import zipfile
from pathlib import Path

from cropr_mm.checkpoints.errors import CheckpointError

_CHUNK = 1 << 20  # bytes


def check_sums(file: Path) -> None:
    """Compare the content of a zip archive, as torch writes them, with its checksums.

    Other files pass, and parts without a checksum, which ``torch.serialization`` may leave out.

    Raises:
        CheckpointError: If one differs, or the archive cannot be read.
    """
    if not zipfile.is_zipfile(file):
        return
    name = "its list of parts"
    try:
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                name = part.filename
                if part.CRC:
                    with archive.open(part) as stream:
                        while stream.read(_CHUNK):
                            pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{file}: damaged at {name}: {error}") from error
