"""Fill a backbone from a checkpoint, strictly."""

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.final_norm import leave_token_norm
from cropr_mm.checkpoints.grid import stored_grid, stored_patch_size, stored_query_grid
from cropr_mm.checkpoints.layouts import LAYOUTS, to_published_names
from cropr_mm.checkpoints.new_parts import LORA, is_new
from cropr_mm.checkpoints.queries import fit_queries
from cropr_mm.checkpoints.rename import Source, find_source
from cropr_mm.checkpoints.safe import safe_load
from cropr_mm.checkpoints.timm import from_timm
from cropr_mm.checkpoints.values import check_values

# Where training programs put the weights; averaged ones first.
NESTS = ("state_dict_ema", "model_ema", "state_dict", "teacher", "model", "module")
# What a config may switch off or add: prefix tokens, the final norm, relative position tables.
OPTIONAL = re.compile(r"^(cls_token|reg_token|dist_token|norm\.\w+)$|\.attn\.rel_pos_[hw]$")
LINES = 6


def load_backbone(
    backbone: nn.Module, source: str | Path | Mapping[str, Any], prefix: str = ""
) -> None:
    """Load timm's weights, files that timm reads, or our own into a ``CroprViT``.

    Files of other projects are recognized by their names, see :data:`.layouts.LAYOUTS`.

    Nothing may be left over but the source's ``head*``, and nothing may be missing but
    ``reducers.*``, ``fusion.*`` and ``mask_queries.*``; prefix tokens, the final norm and relative
    position tables may differ, which is logged. Nothing is loaded unless everything fits. A
    backbone that norms the mean of its tokens keeps its initial final norm where that of the source
    acts on tokens.

    Positions in published files are taken to be square. In mmengine's checkpoints, which are ours,
    they have the grid that the stored config names; where it names none, they are taken as they are
    if their number is the backbone's, which is logged for grids that are not square. Queries of
    Cropr modules are resampled between grids in the same way.

    Args:
        backbone: A ``CroprViT``; its parameters are overwritten.
        source: Checkpoint file or address, see :func:`safe_load`, or what it holds.
        prefix: Name of the encoder in the file, such as 'backbone.'.

    Raises:
        CheckpointError: If names or shapes do not fit, with all of them, or the file is not
            acceptable.
        FileNotFoundError: If there is no such file.
    """
    label, checkpoint, weights = select_weights(source, prefix)
    weights = as_published(weights, label)
    source_grid = _source_grid(checkpoint, prefix, weights, backbone, label)
    leave_token_norm(weights, backbone, checkpoint, prefix)
    converted, leftovers = from_timm(weights, backbone, source_grid)
    converted = fit_queries(converted, backbone, stored_query_grid(checkpoint, prefix))
    fill_backbone(backbone, converted, leftovers, label, _hint(weights))


def select_weights(
    source: str | Path | Mapping[str, Any], prefix: str
) -> tuple[str, Mapping[str, Any], dict[str, Tensor]]:
    """What to call a source in messages, what it holds, and the weights under ``prefix`` in it.

    Raises:
        CheckpointError: If there are none, or the file is not acceptable.
        FileNotFoundError: If there is no such file.
    """
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    checkpoint = source if isinstance(source, Mapping) else safe_load(source)
    return label, checkpoint, _select(_unwrap(checkpoint), prefix, label)


def as_published(
    weights: dict[str, Tensor],
    label: str,
    layouts: Iterable[Source] = LAYOUTS,
    translate: Callable[..., tuple[dict[str, Tensor], list[str]]] = to_published_names,
) -> dict[str, Tensor]:
    """Weights of other projects' files under the names that a loader knows; others as they are.

    Args:
        weights: Name -> tensor; not changed.
        label: What to call the source in messages.
        layouts: Files of other projects.
        translate: Turns weights and their layout into weights and notes, which are logged.

    Raises:
        CheckpointError: If a file of one of the layouts has names that it does not know.
    """
    layout = find_source(weights, layouts)
    if layout is None:
        return weights
    try:
        renamed, notes = translate(weights, layout)
    except CheckpointError as error:
        raise CheckpointError(f"{label}: {error}") from None
    for note in (f"is {layout.files}", *notes):
        print_log(f"{label}: {note}", logger="current")
    return renamed


def fill_backbone(
    backbone: nn.Module,
    converted: Mapping[str, Tensor],
    leftovers: Collection[str],
    label: str,
    hint: str = "",
) -> None:
    """Overwrite the parameters of a backbone; nothing is, unless everything fits.

    Args:
        backbone: What to fill.
        converted: Weights by its names.
        leftovers: Names of the source that have no place in it.
        label: What to call the source in messages.
        hint: For the message where names do not fit.

    Raises:
        CheckpointError: If names or shapes do not fit, with all of them.
    """
    target = backbone.state_dict()
    missing = [name for name in target if name not in converted]
    hard_missing = [n for n in missing if not OPTIONAL.search(n) and not is_new(n)]
    unexpected = [name for name in leftovers if not OPTIONAL.search(name)]
    check_names(hard_missing, unexpected, f"{label} does not fit the backbone{hint}")
    check_shapes(converted, target, label)
    check_values(converted, target, label)
    for text, names in (
        ("keeps its initial value of", [n for n in missing if n not in hard_missing]),
        ("has no", list(leftovers)),
    ):
        if names:  # registers change the features of all tokens
            level = logging.WARNING if "reg_token" in names else logging.INFO
            print_log(f"{label}: the backbone {text} {_short(names)}", "current", level)
    loaded = backbone.load_state_dict(converted, strict=False)  # what may be missing stays
    check_names([], loaded.unexpected_keys, f"{label} does not fit the backbone{hint}")


def check_names(missing: Collection[str], unexpected: Collection[str], problem: str) -> None:
    """Raise a CheckpointError with the two lists side by side, unless both are empty."""
    if not missing and not unexpected:
        return
    rows = [
        ("missing in the checkpoint", "unexpected in the checkpoint"),
        *zip_longest(sorted(missing), sorted(unexpected), fillvalue="-"),
    ]
    width = max(len(left) for left, _ in rows)
    raise CheckpointError(
        f"{problem}\n" + _cut([f"  {left:<{width}}  {right}" for left, right in rows])
    )


def check_shapes(weights: Mapping[str, Tensor], target: Mapping[str, Tensor], label: str) -> None:
    """Raise a CheckpointError with both shapes of every weight that differs from its target."""
    wrong = [
        f"  {name}: expected {tuple(target[name].shape)}, got {tuple(value.shape)}"
        for name, value in weights.items()
        if value.shape != target[name].shape
    ]
    if wrong:
        raise CheckpointError(f"{label}: shapes differ from the model's\n" + _cut(wrong))


def _unwrap(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow the usual names down to the weights."""
    while True:
        inner = next((checkpoint[k] for k in NESTS if isinstance(checkpoint.get(k), Mapping)), None)
        if inner is None:
            return checkpoint
        checkpoint = inner


def _select(weights: Mapping[str, Any], prefix: str, label: str) -> dict[str, Tensor]:
    """Tensors under ``prefix``, without it and without the marks of data parallel training."""
    invalid = [name for name in weights if not isinstance(name, str)]
    if invalid:
        raise CheckpointError(f"{label}: expected tensors by name, got names like {invalid[0]!r}")
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name[len("module.") :]: value for name, value in weights.items()}
    if prefix and not prefix.endswith("."):
        prefix += "."
    selected = {n[len(prefix) :]: v for n, v in weights.items() if n.startswith(prefix)}
    if not selected:
        raise CheckpointError(
            f"{label}: expected names that start with {prefix!r}, got {_short(list(weights))}"
        )
    others = [n for n, value in selected.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{label}: expected tensors only, got other values at {_short(others)}"
        )
    return selected


def _source_grid(
    checkpoint: Mapping[str, Any],
    prefix: str,
    weights: Mapping[str, Tensor],
    backbone: nn.Module,
    label: str,
) -> tuple[int, int] | None:
    """Patch grid of the positions in our own checkpoints; None leaves it to :func:`from_timm`."""
    if "pos_embed" not in weights or "pos_embed" not in backbone.state_dict():
        return None
    patch_size = stored_patch_size(weights)
    stored = None if patch_size is None else stored_grid(checkpoint, prefix, patch_size)
    ours = "state_dict" in checkpoint and "meta" in checkpoint
    ours = ours or any(is_new(name) for name in weights)
    if stored is not None or not ours or weights["pos_embed"].shape != backbone.pos_embed.shape:
        return stored
    height, width = backbone.grid
    if height != width:
        print_log(
            f"{label}: names no image size; its positions are taken for the {height}x{width} "
            "patches of the backbone",
            logger="current",
        )
    return backbone.grid


def _hint(weights: Mapping[str, Tensor]) -> str:
    if any(name.startswith("decoder_") for name in weights):
        return "; it is a masked autoencoder: tools/convert_checkpoint.py --source mae converts it"
    if any(LORA in name for name in weights):
        return "; it has low-rank adapters: expected lora in the backbone as in its training"
    key = "patch_embed.proj.weight"
    prefixes = sorted(name[: -len(key)] for name in weights if name.endswith("." + key))
    return f"; an encoder is at prefix={prefixes[0]!r}" if prefixes else ""


def _cut(lines: list[str]) -> str:
    more = [f"  ... and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return "\n".join(lines[:LINES] + more)


def _short(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
