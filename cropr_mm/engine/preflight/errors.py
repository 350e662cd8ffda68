"""The error of a user's mistake, and how its messages list names."""

from collections.abc import Sequence


class SetupError(ValueError):
    """A mistake in the user's config, files or arguments; its message needs no traceback."""


def some(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, at most so many."""
    more = f", ... {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "none"
