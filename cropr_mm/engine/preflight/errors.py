"""The error of a user's mistake, and how its messages count and list."""

_PLURALS = {
    "category": "categories",
    "class": "classes",
    "box": "boxes",
    "has": "have",
    "is": "are",
    "does": "do",
}


class SetupError(ValueError):
    """A mistake in the user's config, files or arguments; its message needs no traceback."""
