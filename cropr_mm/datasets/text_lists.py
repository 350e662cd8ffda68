"""Text files that publishers of data sets write: one entry a line."""

from pathlib import Path


def read_lines(file: Path) -> list[str]:
    """Lines of a file without white space at their ends; empty ones are left out.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_pairs(file: Path) -> dict[str, str]:
    """Map the first word of each line to the rest of it.

    Raises:
        ValueError: If a line has one word only.
        FileNotFoundError: If there is no such file.
    """
    pairs = {}
    for line in read_lines(file):
        key, _, value = line.partition(" ")
        if not value:
            raise ValueError(f"{file}: expected lines of two entries, got {line!r}")
        pairs[key] = value.strip()
    return pairs
