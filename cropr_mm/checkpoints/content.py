"""What a checkpoint holds, looked at before anybody relies on it."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.messages import some

UNWRAPPED = ((r"^module\.", ""),)  # names without the mark of data parallel training


def as_checkpoint(
    content: Mapping[str, Any], label: str, renames: Iterable[tuple[str, str]] = UNWRAPPED
) -> dict[str, Any]:
    """The content of a file in the form in which trainings write it.

    Args:
        content: What the file holds: weights by name, or a dict that has them under 'state_dict'.
        label: What to call the file in messages.
        renames: Changes of names, (pattern, replacement), made in turn.

    Returns:
        A new dict with the weights under 'state_dict' and a dict under 'meta'.

    Raises:
        CheckpointError: If weights are no tensors by name, or 'meta' is no dict.
    """
    bare = "state_dict" not in content
    weights = content if bare else content["state_dict"]
    where = "at its top" if bare else "under 'state_dict'"
    if not isinstance(weights, Mapping):
        raise CheckpointError(
            f"{label}: expected weights by name {where}, got {type(weights).__name__}"
        )
    meta = {} if bare else content.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise CheckpointError(f"{label}: expected a dict under 'meta', got {type(meta).__name__}")
    others = [
        repr(name)
        for name, value in weights.items()
        if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    if others or not weights:
        got = f"something else: {some(others)}" if others else "nothing"
        raise CheckpointError(f"{label}: expected tensors by name {where}, got {got}")
    named: OrderedDict[str, Tensor] = OrderedDict()
    # Versions of layers, where torch looks for them.
    named._metadata = getattr(weights, "_metadata", None)  # type: ignore[attr-defined]
    for name, value in weights.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        named[name] = value
    return {**({} if bare else content), "state_dict": named, "meta": dict(meta)}
