"""The patch grid that a training checkpoint belongs to, read from the config stored in it.

Positions are one row for each patch, so their number alone does not tell 6x10 from 10x6 patches.
"""

import ast
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def stored_grid(
    checkpoint: Mapping[str, Any], prefix: str, kernel: Tensor
) -> tuple[int, int] | None:
    """Patch grid (h, w) of an encoder by the config in mmengine's meta data.

    The text of the config is parsed, not run.

    Args:
        checkpoint: What the file holds.
        prefix: Name of the encoder in the model, such as 'backbone.'.
        kernel: Weight of its patch embedding, shape (C, in_channels, patch, patch).

    Returns:
        The grid, or None where there is no config or it does not name the image size.
    """
    meta = checkpoint.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    settings = _assigned(text, "model") if isinstance(text, str) else None
    for name in filter(None, prefix.split(".")):
        settings = settings.get(name) if isinstance(settings, dict) else None
    if not isinstance(settings, dict):
        return None
    arch = settings.get("arch")
    size = settings.get("img_size") or (arch.get("img_size") if isinstance(arch, dict) else None)
    size = (size, size) if isinstance(size, int) else size
    if not isinstance(size, list | tuple) or [type(side) for side in size] != [int, int]:
        return None
    return size[0] // kernel.shape[-2], size[1] // kernel.shape[-1]


def _assigned(text: str, name: str) -> Any:
    """Value of a variable in a config's text, None where it is no plain data."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return None
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if name in targets:
                return _plain(statement.value)
    return None


def _plain(node: ast.expr) -> Any:
    """Dicts, written as calls or with braces, of literals; None in the place of all else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {word.arg: _plain(word.value) for word in node.keywords if word.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _plain(v) for key, v in pairs if isinstance(key, ast.Constant)}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return None
