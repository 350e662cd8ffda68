"""Published checkpoints of other projects turned into state dicts of our models."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cropr_mm.checkpoints.detectron2 import fit_positions, native_grid, native_window
from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.eva02 import EVA02_DET, EVA02_MIM
from cropr_mm.checkpoints.fit import check_rows
from cropr_mm.checkpoints.layouts import LAYOUTS
from cropr_mm.checkpoints.load import NESTS
from cropr_mm.checkpoints.plain import MAE, VITDET
from cropr_mm.checkpoints.released import RELEASED
from cropr_mm.checkpoints.rename import Source, find_source, looks_like, rename
from cropr_mm.checkpoints.timm import pack
from cropr_mm.messages import some

SOURCES: dict[str, Source] = {
    "cropr": RELEASED,
    "eva02_det": EVA02_DET,
    "eva02_mim": EVA02_MIM,
    "mae": MAE,
    "vitdet": VITDET,
}
# Where training programs put the weights; averaged ones first.
ENTRIES = ("ema_state", *NESTS)


class Converted(NamedTuple):
    """A published checkpoint under our names.

    Attributes:
        weights: Our name -> tensor, the encoder under 'backbone.'.
        grid: Patch grid (h, w) of the positions, or None where it is unknown.
        window: Side of the windows, in patches, that a detector was trained with, if known.
        notes: One sentence for each thing that was left out or changed.
    """

    weights: dict[str, Tensor]
    grid: tuple[int, int] | None
    window: int | None
    notes: list[str]


def convert(
    weights: Mapping[str, Tensor], name: str, grid: tuple[int, int] | None = None
) -> Converted:
    """Turn the weights of a published file into ours.

    Args:
        weights: Name in the file -> tensor, see :func:`find_weights`; not changed.
        name: Key of :data:`SOURCES`.
        grid: Patch grid (h, w) to bring the positions of a detector to. Default: that of the images
            it was trained with. Positions of encoders stay as they are.

    Returns:
        The weights in our packed layout.

    Raises:
        CheckpointError: If names are left over, blocks are incomplete, or shapes do not fit each
            other; also which source the file looks like instead.
    """
    source = SOURCES[name]
    try:
        if not any(re.fullmatch(source.mark, key) for key in weights):
            raise CheckpointError(
                f"expected {source.files}, got a file without its names; it has "
                f"{some(list(weights))}"
            )
        renamed, notes = rename(weights, source)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_hint(weights, name)}") from None
    scalars = [key for key, value in weights.items() if not value.ndim]
    if scalars:
        raise CheckpointError(f"expected tensors with axes, got single numbers at {some(scalars)}")
    _check_whole(renamed)
    check_rows(renamed, "backbone.")
    packed = pack(renamed)
    positions = packed.get("backbone.pos_embed")
    if positions is None:
        raise CheckpointError("expected positions, got none under pos_embed")
    rows = positions.shape[1]
    if not source.detector:
        side = isqrt(rows - 1)  # besides the patches there is a class token
        return Converted(packed, (side, side) if side**2 == rows - 1 else None, None, notes)
    native, window = native_grid(weights), native_window(weights)
    if native is not None:
        notes.append(f"trained with {native[0]}x{native[1]} patches, windows of {window}x{window}")
    grid = grid or native
    if grid is None:
        raise CheckpointError("the file does not tell the size of its images; give --config")
    packed["backbone.pos_embed"] = fit_positions(positions, grid)
    notes.append(f"pos_embed: {rows} rows resampled to {grid[0]}x{grid[1]} patches")
    return Converted(packed, grid, window, notes)


def find_weights(
    checkpoint: Mapping[str, Any], entry: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """Find the weights in what a file holds.

    Args:
        checkpoint: Content of the file; arrays of numpy become tensors.
        entry: Name of the dict with the weights. Default: averaged weights where there are some,
            then the usual names.

    Returns:
        Name -> tensor, without the marks of data parallel training, and the entries gone through.

    Raises:
        CheckpointError: If there is no such entry, or it does not hold tensors by name.
    """
    path: list[str] = []
    while True:
        inside = [k for k in ENTRIES if isinstance(checkpoint.get(k), Mapping) and checkpoint[k]]
        if entry is not None and not path:
            if not isinstance(checkpoint.get(entry), Mapping) or not checkpoint[entry]:
                raise CheckpointError(
                    f"expected weights in entry {entry!r}, got entries {some(list(checkpoint), 8)}"
                )
            inside = [entry]
        if not inside:
            break
        path.append(inside[0])
        checkpoint = checkpoint[inside[0]]
    others = [n for n in checkpoint if not isinstance(n, str)]
    if others:
        raise CheckpointError(f"expected tensors by name, got names like {others[0]!r}")
    weights = {name: _tensor(name, value) for name, value in checkpoint.items()}
    others = [n for n, v in weights.items() if not isinstance(v, Tensor)]
    if others or not weights:
        raise CheckpointError(
            f"expected tensors by name, got {some(others)} "
            f"(looked for the entries {', '.join(ENTRIES)})"
        )
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights, ".".join(path)


def _tensor(name: str, value: Any) -> Any:
    """A tensor in the place of an array of numpy, in whatever byte order."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise CheckpointError(
            f"expected arrays of numbers that torch has, got {value.dtype} at {name}"
        ) from None


def _check_whole(weights: Mapping[str, Tensor]) -> None:
    """Blocks, and stages of a cascade, have the same weights each but for relative positions."""
    for stem in ("backbone.blocks", "roi_head.bbox_head"):
        parts: dict[int, set[str]] = {}
        for name in weights:
            match = re.match(rf"{re.escape(stem)}\.(\d+)\.(.+)", name)
            if match and ".rel_pos_" not in name:
                parts.setdefault(int(match[1]), set()).add(match[2])
        every = set[str]().union(*parts.values())
        for i in range(max(parts, default=-1) + 1):
            absent = sorted(every - parts.get(i, set()))
            if absent:
                raise CheckpointError(
                    f"{stem}.{i} is incomplete: expected {some(absent)} as in the others, got none"
                )


def _hint(weights: Mapping[str, Tensor], asked: str) -> str:
    layout = find_source(weights, LAYOUTS)
    if layout is not None:
        return (
            f"; it is {layout.files}, which model.backbone.init_cfg loads as it is, and "
            "--source encoder"
        )
    if any(name.startswith("backbone.blocks.") for name in weights):
        return "; it has our names already: use it as load_from"
    likely = [name for name, s in SOURCES.items() if name != asked and looks_like(weights, s)]
    if likely:
        return f"; it looks like --source {' or '.join(likely)}"
    return f"; it is none of {', '.join(SOURCES)}, either"
