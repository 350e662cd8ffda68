"""Runs that a machine is too small for, or has no kernels for."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
NO_SUCH_FORM = "there is no form for"
"""What an encoder says that another runtime cannot compute."""
LIMITS = (
    *("out of memory", "can't allocate memory", "No available kernel", "not implemented for"),
    NO_SUCH_FORM,
)
"""What is said where a kernel or the memory of a machine is at its limits, or a dtype is."""


def attempt(function: Callable[[], T]) -> tuple[T | None, str]:
    """Result of a function, or why the machine is too small for it or has no such kernel.

    Args:
        function: Call without arguments.

    Returns:
        The result and no reason, or None and the line of the error that names the limit. Memory of
        a GPU that is then free is given back.
    """
    try:
        return function(), ""
    except RuntimeError as error:
        lines = str(error).splitlines()  # a compiler's errors begin with its name
        reason = next((line for line in lines if any(limit in line for limit in LIMITS)), "")
        if not reason:
            raise
    free_memory()
    return None, reason


def free_memory() -> None:
    """Give back what nothing refers to any more, on a GPU to other allocations too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
