"""How messages list and count."""

from collections.abc import Sequence

_PLURALS = {
    "category": "categories",
    "class": "classes",
    "box": "boxes",
    "has": "have",
    "is": "are",
    "does": "do",
}


def some(names: Sequence[object], most: int = 8) -> str:
    """The first names, and how many more there are; 'none' where there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
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
