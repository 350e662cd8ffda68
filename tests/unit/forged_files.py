"""Objects whose pickles ask for more than a checkpoint may."""

from collections.abc import Callable
from typing import Any

import numpy as np


class Attack:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Forged:
    """Pickles as numpy's arrays and data types do, with any state."""

    def __init__(self, state: tuple, code: str | None = None) -> None:
        call = np.zeros(1).__reduce__()[:2] if code is None else (np.dtype, (code, False, False))
        self.call = (*call, state)

    def __reduce__(self) -> tuple:
        return self.call


def forged_array(code: str, *state: Any) -> Forged:
    return Forged((1, (1,), Forged(state, code), False, bytes(8)))


FORGED = {
    "fields": forged_array("f8", 3, "|", None, ("a",), {"a": (np.dtype("f8"), 1 << 40)}, 8, 1, 0),
    "flags": forged_array("f8", 3, "<", None, None, None, -1, -1, 63),
    "itemsize": forged_array("U2", 3, "<", None, None, None, 1 << 40, 4, 8),
    "subarray": forged_array("f8", 3, "|", (np.dtype("f8"), (9,)), None, None, 72, 8, 0),
    "shape": Forged((1, (1 << 32, 1 << 32), np.dtype("f8"), False, b"")),
    "object": np.array([None]),
    "record": np.zeros(1, dtype="f4,f4"),
}
