"""What GPU the training of each recipe needs: dense and pruned, whole, by LoRA, encoder frozen.

One step of the whole model, with weights, gradients and the states of AdamW, estimated as in
:mod:`experiments.model_memory`. A recipe whose pruning begins at nothing
(``cropr_mm.CroprCurriculumHook``) is estimated there, where it needs most.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from cropr_mm.backbones.find import find_backbones
from cropr_mm.engine.console import check_outputs, ignore_noise
from cropr_mm.layers.arch import resolve_arch
from cropr_mm.profiling.candidates import native_size
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.text_table import format_table
from experiments.model_memory import Peak, TrainingMemory, estimated_peak, training_memory
from experiments.step import DENSE
from experiments.study_record import study_record
from experiments.training_batch import random_training_batch
from experiments.whole_model import whole_model

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "detection", "segmentation", "classification")
PRUNED = "cropr"
RANK = 8
WAYS = ("full", "lora", "frozen")
"""What of an encoder trains: all, low-rank adapters beside its layers, nothing; heads and reducers
always do."""
CARDS = (24, 48, 80)
"""Memory of GPUs in GiB."""
SHARE = 0.9
"""Part of a card that an estimate may fill: the rest is for the context of CUDA, workspaces and
what the allocator leaves unused."""


def recipes() -> list[Path]:
    """Pruned configs of ViTs with a dense twin, those of methods and demo left out."""
    found = [p for folder in FOLDERS for p in sorted((ROOT / "configs" / folder).glob("cropr_*"))]
    ours = [p for p in found if not re.search("_(pvt|cvt)_", p.stem)]
    return [p for p in ours if dense_twin(p).exists()]


def dense_twin(path: Path) -> Path:
    """Where the config without pruning is."""
    return path.with_name(path.name.replace("cropr_", "unpruned_", 1))


def run(args: argparse.Namespace) -> None:
    """Estimate what the file does not have yet, write after each estimate, and print.

    Args:
        args: Options of ``benchmarks/speed.py memory recipes``.

    Raises:
        ValueError: If options or a config do not fit, or the file has another precision.
    """
    check_outputs(json=args.json)
    ignore_noise()
    record: dict[str, Any] = study_record(
        dtype=args.dtype,
        objects=args.objects,
        lora_rank=RANK,
        rows=[],
    )
    if args.json and args.json.exists():
        record["rows"] = _stored(args.json, record)
    done = {_key(row) for row in record["rows"]}
    mode = Mode(args.dtype)
    for path in [Path(config).resolve() for config in args.configs] or recipes():
        for batch_size in args.batch_sizes:
            for encoder in (DENSE, PRUNED):
                for way in args.ways:
                    place = path.relative_to(ROOT / "configs").as_posix()
                    row: Row = dict(config=place, batch=batch_size, encoder=encoder, trains=way)
                    if _key(row) in done:
                        continue
                    cfg = Config.fromfile(path)
                    set_way(cfg, way)
                    row["size"] = native_size(cfg)
                    row |= vars(step_memory(cfg, encoder, batch_size, mode, args.objects))
                    record["rows"].append(row)
                    print(f"{place}, batch {batch_size}, {encoder}, {way}: {gib(total(row))}")
                    _write(args.json, record)
    _write(args.json, record)
    print(f"\n{format_table(table(record['rows']))}")
    if args.json:
        print(f"\nwritten to {args.json}")


def set_way(cfg: Config, way: str) -> None:
    """Let an encoder train whole, by adapters or not at all.

    Args:
        cfg: Config whose backbone is a :class:`cropr_mm.CroprViT`; changed in place.
        way: Out of WAYS.
    """
    backbone = cfg.model.backbone
    if way == "lora":
        backbone.lora = dict(r=RANK)
    elif way == "frozen":
        backbone.frozen_stages = resolve_arch(backbone.arch).depth


def step_memory(
    cfg: Config,
    encoder: str,
    batch_size: int,
    mode: Mode,
    num_objects: int,
    peak: Peak = estimated_peak,
) -> TrainingMemory:
    """Bytes of the step of a training that needs most.

    Args:
        cfg: Config of a pruned model.
        encoder: 'dense' for its twin, or the pruned one.
        batch_size: Random images, of the encoder's own size.
        mode: Precision.
        num_objects: In an image of a detector.
        peak: How memory is found, see :mod:`experiments.model_memory`.
    """
    torch.manual_seed(0)
    model = mode.place(whole_model(cfg, encoder))
    set_progress(model, first_progress(cfg))
    batch = random_training_batch(cfg, batch_size, native_size(cfg), num_objects)
    return training_memory(model, batch, mode, peak)


def set_progress(model: nn.Module, progress: float) -> None:
    """Let encoders reduce by a share of their schedules."""
    for backbone in find_backbones(model).values():
        backbone.progress = progress


def first_progress(cfg: Config) -> float:
    """Share of the reduction in the first step: nothing where a curriculum raises it."""
    hooks = cfg.get("custom_hooks") or []
    return float(not any(hook["type"] == "cropr_mm.CroprCurriculumHook" for hook in hooks))


def total(row: Mapping[str, Any]) -> int:
    """Bytes of a training: weights, states of AdamW, and what a step adds at most."""
    return row["weights"] + row["optimizer"] + row["training"]


def smallest_card(num_bytes: int) -> str:
    """GiB of the smallest of CARDS of which a training fills no more than SHARE; '-' if none."""
    return next((f"{card}" for card in CARDS if num_bytes <= SHARE * card * 2**30), "-")


def gib(num_bytes: int) -> str:
    """Bytes in GiB and, in brackets, the card."""
    return f"{num_bytes / 2**30:.1f} ({smallest_card(num_bytes)})"


def table(rows: Sequence[Row]) -> list[list[str]]:
    """One row for each recipe and batch: GiB of each encoder and way, with the smallest card."""
    found = {_key(row): row for row in rows}
    columns = [(e, w) for e in (DENSE, PRUNED) for w in WAYS if any(_is(r, e, w) for r in rows)]
    head = ["config", "image, px", "images", *(f"{e}, {w}" for e, w in columns)]
    lines = [head]
    for config, batch in dict.fromkeys((row["config"], row["batch"]) for row in rows):
        own = [found.get((config, batch, encoder, way)) for encoder, way in columns]
        size = next("x".join(map(str, row["size"])) for row in own if row)
        cells = [gib(total(row)) if row else "" for row in own]
        lines.append([config, size, str(batch), *cells])
    return lines


def _is(row: Row, encoder: str, way: str) -> bool:
    return (row["encoder"], row["trains"]) == (encoder, way)


def _key(row: Row) -> tuple[str, int, str, str]:
    return row["config"], row["batch"], row["encoder"], row["trains"]


def _write(file: Path | None, record: Mapping[str, Any]) -> None:
    if file:
        file.write_text(json.dumps(record, indent=2) + "\n")


def _stored(file: Path, record: Mapping[str, Any]) -> list[Row]:
    """Rows of an earlier run with the same settings."""
    stored = json.loads(file.read_text())
    names: Iterable[str] = ("dtype", "objects", "lora_rank")
    other = [name for name in names if stored.get(name) != record[name]]
    if other:
        raise ValueError(
            f"expected a file with {', '.join(f'{n} {record[n]}' for n in other)}, got "
            f"{', '.join(f'{n} {stored.get(n)}' for n in other)} in {file}; name a new file"
        )
    return stored["rows"]
