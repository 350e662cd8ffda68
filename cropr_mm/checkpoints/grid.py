"""What a training checkpoint belongs to, read from its config: grids, output and adapters.

Positions are one row for each patch, so their number alone does not tell 6x10 from 10x6 patches;
so it is with Cropr's queries.
"""

import ast
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cropr_mm.checkpoints.new_parts import ADAPTER_SCALE


def stored_grid(
    checkpoint: Mapping[str, Any], prefix: str, patch_size: tuple[int, int]
) -> tuple[int, int] | None:
    """Patch grid (h, w) of an encoder by the config in mmengine's meta data.

    The text of the config is parsed, not run.

    Args:
        checkpoint: What the file holds.
        prefix: Name of the encoder in the model, such as 'backbone.'.
        patch_size: Height and width of its patches, in pixels.

    Returns:
        The grid, or None where there is no config or it does not name the image size.
    """
    settings = _settings(checkpoint, prefix)
    arch = settings.get("arch")
    size = settings.get("img_size") or (arch.get("img_size") if isinstance(arch, dict) else None)
    size = _two_numbers((size, size) if isinstance(size, int) else size)
    return size and (size[0] // patch_size[0], size[1] // patch_size[1])


def stored_patch_size(weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Height and width of an encoder's patches, in pixels; None without a patch embedding."""
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is None:
        return None
    # Behind a convolutional stem the kernel sees every second pixel.
    zoom = 2 if "patch_embed.conv1.weight" in weights else 1
    return zoom * kernel.shape[-2], zoom * kernel.shape[-1]


def stored_query_grid(checkpoint: Mapping[str, Any], prefix: str) -> tuple[int, int] | None:
    """Grid (rows, columns) of an encoder's queries by the config in mmengine's meta data.

    Args:
        checkpoint: What the file holds.
        prefix: Name of the encoder in the model, such as 'backbone.'.

    Returns:
        The grid, or None where there is no config or its queries have none.
    """
    reducer = _settings(checkpoint, prefix).get("reducer")
    return _two_numbers(reducer.get("num_queries")) if isinstance(reducer, dict) else None


def stored_out_type(checkpoint: Mapping[str, Any], prefix: str) -> str | None:
    """``out_type`` of an encoder by the config in mmengine's meta data.

    Args:
        checkpoint: What the file holds.
        prefix: Name of the encoder in the model, such as 'backbone.'.

    Returns:
        The value, 'featmap' where the config leaves it out, or None where there is no config.
    """
    settings = _settings(checkpoint, prefix)
    return str(settings.get("out_type", "featmap")) if settings else None


def stored_adapter_scale(checkpoint: Mapping[str, Any], prefix: str) -> float | None:
    """Scale, alpha / r, of an encoder's low-rank adapters by the config in mmengine's meta data.

    Args:
        checkpoint: What the file holds.
        prefix: Name of the encoder in the model, such as 'backbone.'.

    Returns:
        The scale, or None where there is no config or it has no adapters.
    """
    lora = _settings(checkpoint, prefix).get("lora")
    if not isinstance(lora, dict) or not isinstance(lora.get("r"), int):
        return None
    alpha = lora.get("alpha", ADAPTER_SCALE * lora["r"])
    return alpha / lora["r"] if isinstance(alpha, int | float) else None


def _settings(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Config of an encoder, empty where there is none."""
    meta = checkpoint.get("meta")
    text = meta.get("cfg") if isinstance(meta, Mapping) else None
    settings = _assigned(text, "model") if isinstance(text, str) else None
    for name in filter(None, prefix.split(".")):
        settings = settings.get(name) if isinstance(settings, dict) else None
    return settings if isinstance(settings, dict) else {}


def _two_numbers(value: Any) -> tuple[int, int] | None:
    if not isinstance(value, list | tuple) or [type(side) for side in value] != [int, int]:
        return None
    return value[0], value[1]


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
