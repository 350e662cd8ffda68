"""The error of a user's mistake, and how its messages count and list."""

from collections.abc import Sequence

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


def some(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, at most so many."""
    more = f", ... {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more if names else "none"


def counted(number: int, noun: str, verb: str = "") -> str:
    """A number with its noun, and a verb in the form that goes with it.

    Args:
        number: How many.
        noun: Singular.
        verb: Form of the third person singular, such as 'has' or 'lies'; left out if empty.
    """
    if number != 1:
        noun = plural(noun)
        verb = _PLURALS.get(verb, verb.removesuffix("s"))
    return " ".join(filter(None, (str(number), noun, verb)))


def plural(noun: str) -> str:
    """Form of a noun for several."""
    return _PLURALS.get(noun, f"{noun}s")
