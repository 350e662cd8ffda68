"""The error of a user's mistake."""


class SetupError(ValueError):
    """A mistake in the user's config, files or arguments; its message needs no traceback."""
