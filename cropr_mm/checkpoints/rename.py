"""Turn the names of a published file into ours by an ordered table of rules."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.messages import some

# (pattern of a whole name, our name or None to leave the tensor out); the first that fits counts.
Rule = tuple[str, str | None]


class Source(NamedTuple):
    """One kind of published file.

    Attributes:
        files: What the files are, for messages.
        mark: Pattern of a name that each of them has.
        rules: Ordered; every name of a file needs one.
        detector: Whether a file holds a whole detector of detectron2, or an encoder only.
    """

    files: str
    mark: str
    rules: tuple[Rule, ...]
    detector: bool


def moved(rules: tuple[Rule, ...], old: str, new: str) -> tuple[Rule, ...]:
    """The same rules for names that start with the pattern ``old``, and with ``new`` for us."""
    return tuple((old + rule, None if name is None else new + name) for rule, name in rules)


def rename(weights: Mapping[str, Tensor], source: Source) -> tuple[dict[str, Tensor], list[str]]:
    """Apply the rules of a source.

    Args:
        weights: Name in the file -> tensor.
        source: What the file is.

    Returns:
        Our name -> tensor, and one note about what was left out.

    Raises:
        CheckpointError: If a name has no rule, or if two names become one.
    """
    unknown = unknown_names(weights, source)
    if unknown:
        raise CheckpointError(
            f"expected {source.files}; {len(unknown)} of {len(weights)} names are not known "
            f"there: {some(unknown)}"
        )
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for name, value in weights.items():
        new = _target(name, source)
        if new is None:
            dropped[re.sub(r"\d+", "*", name)] += 1
        elif new in renamed:
            raise CheckpointError(f"expected one source of {new}, got {origin[new]} and {name}")
        else:
            renamed[new], origin[new] = value, name
    left_out = [f"{name} ({count})" for name, count in dropped.items()]
    notes = [f"left out {some(left_out)}"] if left_out else []
    return renamed, notes


def unknown_names(weights: Mapping[str, Tensor], source: Source) -> list[str]:
    """Names for which a source has no rule."""
    return [n for n in weights if not any(re.fullmatch(rule, n) for rule, _ in source.rules)]


def find_source(weights: Mapping[str, Tensor], sources: Iterable[Source]) -> Source | None:
    """The first source whose mark is among the names; None where there is none."""
    return next((s for s in sources if any(re.fullmatch(s.mark, name) for name in weights)), None)


def looks_like(weights: Mapping[str, Tensor], source: Source) -> bool:
    """Whether all names have a rule, and the one that marks the source is there."""
    marked = any(re.fullmatch(source.mark, name) for name in weights)
    return marked and not unknown_names(weights, source)


def _target(name: str, source: Source) -> str | None:
    for rule, new in source.rules:
        match = re.fullmatch(rule, name)
        if match:
            return None if new is None else match.expand(new)
    raise KeyError(name)
