"""Rebuild arrays of numpy from a pickle by their numbers alone.

numpy believes the state that a pickle gives to a data type or an array. A false one (fields beyond
the item, flags of Python objects, more items than bytes) crashes the program when it is read.
"""

import math
from pickle import UnpicklingError
from typing import Any

import numpy as np

_KINDS = "biufcSU"  # booleans, numbers and strings; no objects, no fields


def numpy_globals() -> dict[str, Any]:
    """Python objects by the dotted names under which pickles hold arrays and scalars."""
    found: dict[str, Any] = {"numpy.ndarray": np.ndarray, "numpy.dtype": _simple_dtype}
    for package in ("numpy.core", "numpy._core"):  # numpy 1 and 2 write different names
        found[f"{package}.multiarray._reconstruct"] = _empty_array
        found[f"{package}.multiarray.scalar"] = np.float64(1).__reduce__()[0]
    return found


def check_state(owner: np.dtype | np.ndarray, state: Any) -> None:
    """Raise an UnpicklingError unless a state is one that numpy itself writes for simple items.

    Args:
        owner: Data type or array that the state is for.
        state: Of a data type all that it has already, but any byte order; of an array its version,
            shape, data type, order of axes, and as many bytes as these need.
    """
    fits = _is_state_of_dtype if isinstance(owner, np.dtype) else _is_state_of_array
    if not isinstance(state, tuple) or not fits(owner, state):
        raise UnpicklingError(f"expected a plain state of {type(owner)}, got {str(state)[:80]}")


def _simple_dtype(code: Any, align: Any = False, copy: Any = False) -> np.dtype:
    """Stand in for ``numpy.dtype``; a copy, since a state would change the one that all share."""
    if not isinstance(code, str) or np.dtype(code).kind not in _KINDS:
        raise UnpicklingError(f"expected a data type of numbers or strings, got {code!r}")
    return np.dtype(code, copy=True)


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """Stand in for the function that makes an array whose state comes later."""
    if kind is not np.ndarray or shape != (0,) or code not in (b"b", "b"):
        raise UnpicklingError(f"expected an empty array, got {kind}, {shape}, {code}")
    return np.empty(0, np.int8)


def _is_state_of_dtype(owner: Any, state: tuple) -> bool:
    version, order, *rest = owner.__reduce__()[2]
    return state in [(version, any_, *rest) for any_ in ("|" if order == "|" else "<>")]


def _is_state_of_array(owner: Any, state: tuple) -> bool:
    if len(state) != 5 or state[0] != 1:
        return False
    _, shape, dtype, _, data = state
    return (
        isinstance(shape, tuple)
        and all(isinstance(extent, int) and extent >= 0 for extent in shape)
        and isinstance(dtype, np.dtype)
        and isinstance(data, bytes | str)  # text in files of Python 2
        and math.prod(shape) * dtype.itemsize == len(data)
    )
