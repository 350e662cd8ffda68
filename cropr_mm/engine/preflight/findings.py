"""What is wrong in a file, each kind with its count and its first examples."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.messages import counted, some

_MOST = 5


class Findings:
    """Errors and warnings about one file, said together once all of it was looked at.

    Args:
        where: Part of the config that names the file, such as 'train_dataloader'.
        file: The file.
    """

    def __init__(self, where: str, file: str) -> None:
        self.where = where
        self.file = file
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error(
        self, noun: str, fault: str, found: Sequence[object] | Mapping[Any, int], hint: str = ""
    ) -> None:
        """Note what makes the file unusable; nothing if ``found`` is empty.

        Args:
            noun: What is at fault, in the singular, such as 'annotation'.
            fault: What is wrong with it, from the verb on: "has no 'bbox'".
            found: Each that is at fault, such as 'id 7', or how many share a value, by value.
            hint: What to do about it.
        """
        if found:
            self.errors.append(_sentence(noun, fault, found, hint))

    def warn(
        self, noun: str, fault: str, found: Sequence[object] | Mapping[Any, int], hint: str = ""
    ) -> None:
        """Note what the host library leaves out in silence, as :meth:`error`."""
        if found:
            self.warnings.append(_sentence(noun, fault, found, hint))

    def finish(self) -> None:
        """Warn of every kind of fault, or raise.

        Raises:
            SetupError: If there are errors; the message has all of them.
        """
        if self.errors:
            raise SetupError(f"{self.where}: {self.file}: " + "\n  ".join(self.errors))
        for text in self.warnings:
            warnings.warn(f"{self.where}: {self.file}: {text}", stacklevel=2)
        self.warnings = []


def _sentence(noun: str, fault: str, found: Sequence[object] | Mapping[Any, int], hint: str) -> str:
    verb, _, rest = fault.partition(" ")
    if isinstance(found, Mapping):
        number = sum(found.values())
        names = [f"{value!r}: {counted(times, 'time')}" for value, times in found.items()]
    else:
        number, names = len(found), [*map(str, found)]
    text = f"{counted(number, noun, verb)} {rest} ({some(names, _MOST)})"
    return f"{text}; {hint}" if hint else text
