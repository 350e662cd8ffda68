"""Numbers of a json file, told from text and lists of another length."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_numbers(values: Sequence[Any], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as an array, and where there are none.

    Args:
        values: Values of a json file: numbers, or lists of ``length`` numbers, unless at fault.
        length: Numbers in each list; None for plain numbers.

    Returns:
        float64 array of shape (values,) or (values, length), with 0 where a value is at fault, and
        which are, bool, shape (values,).
    """
    shape = (len(values),) if length is None else (len(values), length)
    try:
        # Text beside numbers turns all of it into text, so that one look at the kind is enough.
        array = np.array(values)
        if array.dtype.kind in "iuf" and array.shape == shape:
            return array.astype(float), np.zeros(len(values), dtype=bool)
    except ValueError:  # lists of different lengths
        pass
    wrong = np.array([not _fits(value, length) for value in values], dtype=bool)
    numbers = np.zeros(shape)
    if not wrong.all():
        numbers[~wrong] = [value for value, bad in zip(values, wrong, strict=True) if not bad]
    return numbers, wrong


def _fits(value: Any, length: int | None) -> bool:
    if length is None:
        # Larger integers than float64 holds are no sizes in pixels either.
        return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
    return isinstance(value, list) and len(value) == length and all(_fits(v, None) for v in value)
