"""Memory of Cropr models and their dense twins, estimated; nothing is timed.

model: a whole detector in training and test, heads and post-processing included; with --device
cuda it is measured. step: encoder, linear head and auxiliary losses of a training step
(:mod:`experiments.train_step`). size: plain encoders over image sizes, beside the analytic model.
recipes: what GPU each config needs (:mod:`experiments.recipe_memory`).
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import Config

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import auxiliary_reducers
from cropr_mm.engine.console import check_outputs, ignore_noise
from cropr_mm.profiling.candidates import native_size, random_batch, with_image_size
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.text_table import format_table
from experiments import recipe_memory
from experiments.encoder_memory import cuda_peak_bytes, encoder_memory
from experiments.model_memory import (
    ModelMemory,
    estimated_peak,
    model_memory,
)
from experiments.step import DENSE, EXACT
from experiments.studies import STUDIES
from experiments.study_record import study_record
from experiments.train_step import count_bytes
from experiments.training_batch import random_training_batch
from experiments.whole_model import whole_model

Row = dict[str, Any]


def run(args: argparse.Namespace) -> None:
    """Estimate, print and write.

    Args:
        args: Options of ``benchmarks/speed.py memory``.

    Raises:
        ValueError: If options or the config do not fit.
    """
    if min(args.batch_sizes) < 1:
        raise ValueError(f"expected batch sizes >= 1, got {args.batch_sizes}")
    if args.command == "recipes":
        recipe_memory.run(args)
        return
    check_outputs(json=args.json)
    rows = dict(model=model_rows, step=step_rows, size=size_rows)[args.command](args)
    print(format_table(TABLES[args.command](rows)))
    if args.json:
        record = study_record(
            device=getattr(args, "device", "cpu"),
            rows=rows,
        )
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"\nwritten to {args.json}")


def read_config(args: argparse.Namespace) -> Config:
    """The config, for another image size if asked for."""
    cfg = Config.fromfile(args.config)
    return with_image_size(cfg, tuple(args.img_size)) if args.img_size else cfg


def model_rows(args: argparse.Namespace) -> list[Row]:
    """A dense and a pruned detector at each batch size."""
    ignore_noise()
    cfg, mode = read_config(args), Mode(args.dtype, device=args.device)
    if cfg.get("default_scope") != "mmdet":
        raise ValueError(f"expected a detector of mmdet, got {args.config}; see the command step")
    cuda = torch.device(args.device).type == "cuda"
    peak = partial(cuda_peak_bytes, device=args.device) if cuda else estimated_peak
    rows = []
    for batch_size in args.batch_sizes:
        for variant in (DENSE, EXACT):
            torch.manual_seed(0)
            need = detector_memory(cfg, variant, batch_size, args.objects, mode, peak)
            rows.append(dict(batch=batch_size, encoder=variant, **vars(need)))
    return rows


def detector_memory(
    cfg: Config,
    variant: str,
    batch_size: int,
    num_objects: int,
    mode: Mode,
    peak: Callable[[Callable[[], object]], int],
) -> ModelMemory:
    """Memory of one variant of a config's model on random images."""
    model, size = mode.place(whole_model(cfg, variant)), native_size(cfg)  # its scope packs batches
    training = random_training_batch(cfg, batch_size, size, num_objects)
    return model_memory(model, training, random_batch(cfg, batch_size, size), mode, peak)


def model_table(rows: list[Row]) -> list[list[str]]:
    """Peaks with weights; over the dense row above."""
    kinds = [name for kind in ("training", "with AdamW", "test") for name in (kind, "x dense")]
    table = [["batch", "encoder", "weights GiB", "AdamW", *kinds]]
    for row in rows:
        if row["encoder"] == DENSE:
            dense = model_totals(row)
        cells = [f"{row[kind] / 2**30:.2f}" for kind in ("weights", "optimizer")]
        for total, base in zip(model_totals(row), dense, strict=True):
            cells += [f"{total / 2**30:.2f}", f"{total / base:.2f}"]
        table.append([str(row["batch"]), row["encoder"], *cells])
    return table


def model_totals(row: Row) -> tuple[int, int, int]:
    """Training without and with the optimizer's states, and test, each with weights."""
    training = row["weights"] + row["training"]
    return training, training + row["optimizer"], row["weights_deployed"] + row["test"]


def step_rows(args: argparse.Namespace) -> list[Row]:
    """A dense and a pruned training step at each batch size."""
    cfg, mode = read_config(args), Mode(args.dtype)
    return [
        dict(batch=size, encoder=variant, **count_bytes(cfg, variant, size, mode))
        for size in args.batch_sizes
        for variant in (DENSE, EXACT)
    ]


def step_table(rows: list[Row]) -> list[list[str]]:
    """One row for each batch size."""
    table = [["batch", "dense GiB", "cropr GiB", "x dense", "dense with AdamW", "cropr", "x dense"]]
    for dense, pruned in zip(rows[::2], rows[1::2], strict=True):
        cells = []
        for kinds in (("weights", "step"), ("weights", "step", "optimizer")):
            base, own = (sum(row[kind] for kind in kinds) for row in (dense, pruned))
            cells += [f"{base / 2**30:.2f}", f"{own / 2**30:.2f}", f"{own / base:.2f}"]
        table.append([str(dense["batch"]), *cells])
    return table


def size_rows(args: argparse.Namespace) -> list[Row]:
    """Plain encoders of the study `curve` at each image and batch size."""
    mode = Mode(args.dtype)
    if args.dtype == "amp":
        raise ValueError("the analytic model has one precision: expected fp32, bf16 or fp16")
    rows = []
    for group in STUDIES["curve"].groups(args.arch, args.img_sizes):
        for batch_size in args.batch_sizes:
            for name, settings in group.encoders.items():
                need = encoder_memory(settings, batch_size, mode)
                about = dict(side=settings["img_size"][0], batch=batch_size, encoder=name)
                rows.append(about | vars(need) | analytic(settings, batch_size, mode))
    return rows


def analytic(settings: Mapping[str, Any], batch_size: int, mode: Mode) -> dict[str, int]:
    """Bytes in training and test by multiplication: tokens times what a block keeps of each.

    A block keeps eight vectors of C channels for each token (its input, queries, keys, values,
    what attention gives, the sum, both normalized) and two of the hidden width, and a float32 for
    each head. To these the gradients of Cropr's modules are added, which are there when the
    backward pass starts; at its end all gradients are there and no token is. In test the MLP of
    the first block holds the hidden width twice beside three vectors.
    """
    with torch.device("meta"):
        encoder = CroprViT(**settings)
    channels, itemsize = encoder.embed_dim, mode.torch_dtype.itemsize
    block = encoder.blocks[0]
    hidden, heads = block.mlp.fc1.out_features, block.attn.num_heads
    tokens = encoder.tokens_per_block()
    kept = itemsize * (8 * channels + 2 * hidden) + 4 * heads
    gradients = itemsize * sum(p.numel() for p in encoder.parameters())
    auxiliary = itemsize * sum(
        p.numel() for r in auxiliary_reducers(encoder).values() for p in r.parameters()
    )
    training = max(batch_size * sum(tokens) * kept + auxiliary, gradients)
    test = batch_size * tokens[0] * itemsize * (3 * channels + 2 * hidden)
    return dict(analytic_training=training, analytic_test=test, tokens=sum(tokens))


def size_table(rows: list[Row]) -> list[list[str]]:
    """Estimates with weights, over dense, and over the analytic model."""
    over = ("x dense", "x analytic")
    table = [["image", "batch", "encoder", "training GiB", *over, "test GiB", *over]]
    for row in rows:
        kinds = (("weights", "training"), ("weights_deployed", "test"))
        totals = [row[weights] + row[peak] for weights, peak in kinds]
        if row["encoder"] == DENSE:
            dense = totals
        cells = []
        for (weights, peak), total, base in zip(kinds, totals, dense, strict=True):
            model = row[weights] + row[f"analytic_{peak}"]
            cells += [f"{total / 2**30:.2f}", f"{total / base:.2f}", f"{total / model:.2f}"]
        table.append([f"{row['side']} px", str(row["batch"]), row["encoder"], *cells])
    return table


TABLES = dict(model=model_table, step=step_table, size=size_table)
