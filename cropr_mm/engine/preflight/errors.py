"""The error of a user's mistake."""

from collections.abc import Iterator
from contextlib import contextmanager


class SetupError(ValueError):
    """A mistake in the user's config, files or arguments; its message needs no traceback."""


@contextmanager
def as_setup_error() -> Iterator[None]:
    """Take the ValueError of a check, whose text says what was expected, for a user's mistake.

    Raises:
        SetupError: In the place of ValueError, with the same text.
    """
    try:
        yield
    except ValueError as error:
        raise SetupError(str(error)) from error
