"""Write a published checkpoint as one of ours, whole or fitted to the model of a config."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from cropr_mm.backbones import CroprViT
from cropr_mm.backbones.find import find_vits
from cropr_mm.build import build_model
from cropr_mm.checkpoints import CheckpointError, safe_load
from cropr_mm.checkpoints.final_norm import leave_token_norm
from cropr_mm.checkpoints.fit import fit_shapes
from cropr_mm.checkpoints.load import OPTIONAL, check_names, check_shapes
from cropr_mm.checkpoints.new_parts import is_new
from cropr_mm.checkpoints.published import SOURCES, Converted, convert, find_weights
from cropr_mm.checkpoints.released import RELEASED, place_head
from cropr_mm.messages import some

ENCODER = "backbone."
_MASK_HEAD = "roi_head.mask_head."
_POOLED_NORM = re.compile(r"(^|\.)fc_norm\.")


class Report(NamedTuple):
    """What :func:`convert_checkpoint` did.

    Attributes:
        file: The new checkpoint.
        entry: Where the weights were in the published file, empty for its top.
        tensors: Number of tensors written.
        notes: One sentence for each thing that was left out, changed or is missing.
    """

    file: Path
    entry: str
    tensors: int
    notes: list[str]

    def __str__(self) -> str:
        taken = f" from entry {self.entry!r}" if self.entry else ""
        notes = "".join(f"  {note}\n" for note in self.notes)
        return (
            f"Converted {self.tensors} tensors{taken}.\n{notes}"
            f"  checkpoint  {self.file}\n"
            f"Use it as load_from, or for the encoder as backbone.init_cfg="
            f"dict(type='Pretrained', checkpoint=..., prefix='{ENCODER}')."
        )


def convert_checkpoint(
    src: str | Path,
    dst: str | Path,
    source: str,
    cfg: Config | None = None,
    entry: str | None = None,
) -> Report:
    """Convert a published checkpoint.

    Without a config only names and layout change, and a detector's positions come to the image size
    that it was trained with. With one, every size is fitted, every name and shape compared with the
    model, and the config stored in the file.

    Args:
        src: Published file or its address, see :func:`safe_load`.
        dst: File to write; it must not exist, its folder must.
        source: Key of :data:`SOURCES`.
        cfg: Config of a model whose encoder is its ``backbone``; not changed.
        entry: Entry of the file with the weights. Default: averaged weights before others.

    Raises:
        CheckpointError: If the file is not of this source or does not fit the config.
        FileNotFoundError: If there is no such file.
        ValueError: If ``source`` is unknown, ``dst`` exists, or its folder does not.
    """
    if source not in SOURCES:
        raise ValueError(f"expected a source out of {', '.join(SOURCES)}, got {source!r}")
    dst = check_destination(dst)
    content = safe_load(src)
    try:
        weights, path = find_weights(content, entry)
        pooled = any(_POOLED_NORM.search(name) for name in weights)
        if cfg is None:
            converted = convert(weights, source)
            converted.notes.append("whether weights are missing is not known: name a --config")
        else:
            model = build_model(cfg, "meta")
            encoder = encoder_of(model)
            converted = convert(weights, source, encoder.grid)
            if SOURCES[source] is RELEASED:
                place_head(converted.weights, model.state_dict())
            if not pooled:
                _start_norm_anew(converted, encoder)
            converted = fit(converted, model, encoder, source)
    except CheckpointError as error:
        raise CheckpointError(f"{src}: {error}") from None
    meta = dict(source=source, cfg=_config_text(converted, cfg, pooled))
    torch.save(dict(meta=meta, state_dict=converted.weights), dst)
    return Report(dst, path, len(converted.weights), converted.notes)


def check_destination(dst: str | Path) -> Path:
    """The file to write; ValueError if it exists, or its folder does not."""
    dst = Path(dst)
    if dst.exists():
        raise ValueError(f"expected a new file for the result, but {dst} exists")
    if not dst.parent.is_dir():
        raise ValueError(f"expected an existing folder for the result, got {dst.parent}")
    return dst


def encoder_of(model: nn.Module) -> CroprViT:
    """The encoder that is a model's ``backbone``; CheckpointError without one."""
    encoder = find_vits(model).get(ENCODER.rstrip("."))
    if encoder is None:
        raise CheckpointError("expected a config with a cropr_mm.CroprViT as its backbone")
    return encoder


def fit(converted: Converted, model: nn.Module, encoder: CroprViT, source: str) -> Converted:
    """Bring converted weights to the sizes of a model, and compare all names and shapes.

    Args:
        converted: Weights under our names.
        model: The whole model, on the meta device.
        encoder: Its ``backbone``.
        source: Key of :data:`SOURCES`; it tells whether heads are expected.

    Returns:
        Weights with the shapes of the model. Layers of another number of classes are left out.

    Raises:
        CheckpointError: If names are missing or left over, or shapes differ.
    """
    target = model.state_dict()
    weights = {k: v for k, v in converted.weights.items() if not k.startswith(ENCODER)}
    own = {k.removeprefix(ENCODER): v for k, v in converted.weights.items() if k not in weights}
    own, notes = fit_shapes(
        own, encoder.state_dict(), encoder.grid, converted.grid, encoder.arch.pos_embed_prefix
    )
    notes = [*converted.notes, *notes]
    if converted.window not in (None, encoder.window_size):
        notes.append(f"the model's windows have another size, {encoder.window_size}")
    extra = [k for k in own if ENCODER + k not in target and OPTIONAL.search(k)]
    weights = {ENCODER + k: v for k, v in own.items() if k not in extra} | weights
    if extra:
        notes.append(f"the encoder has no {some(sorted(extra))}")
    classes = _other_classes(weights, target)
    if classes:
        notes.append(
            f"left out, for another number of classes than the model's: {some(classes, 12)}"
        )
        weights = {k: v for k, v in weights.items() if k not in classes}

    missing = [k for k in target if k not in weights and k not in classes]
    absent = {k for k in missing if _may_be_absent(k, weights, source)}
    if absent:
        parts = sorted({".".join(k.split(".")[:2]) for k in absent})
        notes.append(f"not in the file, {len(absent)} tensors of the model: {some(parts, 8)}")
    check_names(
        [k for k in missing if k not in absent],
        weights.keys() - target.keys(),
        "the file does not fit the model of the config",
    )
    check_shapes(weights, target, "the file does not fit the model of the config")
    return Converted(weights, encoder.grid, converted.window, notes)


def _may_be_absent(name: str, weights: Mapping[str, Tensor], source: str) -> bool:
    """Whether a file of this source may lack a weight of the model."""
    if name.startswith(ENCODER):
        own = name.removeprefix(ENCODER)
        new = is_new(own) and SOURCES[source] is not RELEASED
        return new or OPTIONAL.search(own) is not None
    if not SOURCES[source].detector:
        return True
    # Objects365 has no masks: detectors trained on it have no such head.
    return name.startswith(_MASK_HEAD) and not any(k.startswith(_MASK_HEAD) for k in weights)


def _other_classes(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    """Classification layers whose rows differ because the number of classes does.

    detectron2 leaves such weights out too when it loads (fvcore, common/checkpoint.py), which is
    what EVA-02 does from Objects365 to COCO.
    """
    theirs, ours = _num_classes(weights), _num_classes(target)
    if theirs is None or ours is None or theirs == ours:
        return []
    found = []
    for layer, factor, more in (("fc_cls", 1, 1), ("fc_reg", 4, 0), ("conv_logits", 1, 0)):
        rows = factor * theirs + more, factor * ours + more
        found += [
            name
            for name, value in weights.items()
            if f".{layer}." in name and name in target and (len(value), len(target[name])) == rows
        ]
    return found


def _num_classes(weights: Mapping[str, Tensor]) -> int | None:
    """Classes that the box heads tell apart, without the background."""
    rows = {len(v) - 1 for k, v in weights.items() if k.endswith(".fc_cls.bias")}
    return rows.pop() if len(rows) == 1 else None


def _start_norm_anew(converted: Converted, encoder: CroprViT) -> None:
    """Leave out the final norm of tokens, in place, where the encoder norms their mean."""
    own = {n.removeprefix(ENCODER): v for n, v in converted.weights.items()}
    left = leave_token_norm(own, encoder, {}, "")
    for name in left:
        del converted.weights[ENCODER + name]
    if left:
        converted.notes.append(f"left out {some(left)}: the model norms the mean of its tokens")


def _config_text(converted: Converted, cfg: Config | None, pooled: bool) -> str:
    """What :mod:`cropr_mm.checkpoints.grid` reads about an encoder from the file."""
    if cfg is not None:
        return cfg.pretty_text
    settings: dict[str, Any] = dict(out_type="avg_featmap") if pooled else {}
    if converted.grid is not None:
        patch = converted.weights[ENCODER + "patch_embed.proj.weight"].shape[-2:]
        settings["img_size"] = tuple(
            side * cells for side, cells in zip(patch, converted.grid, strict=True)
        )
    return f"model = {dict(backbone=settings)}\n" if settings else ""
