"""Time the encoders of one study of speed side by side, against the measured floor of each.

Weights and images are random. Every group of encoders is one interleaved run; its first row is what
the others are compared with. With --json the same command goes on after an interruption and repeats
only what was not measured on an idle machine.
"""

import argparse
import itertools
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.engine.console import check_outputs, show_rounds
from cropr_mm.profiling.candidates import random_images
from cropr_mm.profiling.compare import Entry, SideBySide, encoder_entry, time_side_by_side
from cropr_mm.profiling.environment import git_commit, machine_name, settings_hash, versions
from cropr_mm.profiling.floor import PROTOCOL
from cropr_mm.profiling.matmuls import macs
from cropr_mm.profiling.out_of_memory import attempt, free_memory
from cropr_mm.profiling.run_mode import Mode, freeze_weights
from cropr_mm.profiling.speed_plots import draw_groups, draw_sizes
from experiments.encoder_memory import EncoderMemory, encoder_memory, measured_memory
from experiments.studies import STUDIES, Group


class OnOwnImages(nn.Module):
    """Encoder that gets images of its own size, whatever it is called with."""

    def __init__(self, encoder: CroprViT, images: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.images = images

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        """What the encoder gives for its images."""
        return self.encoder(self.images)


class Row(NamedTuple):
    """One encoder in one mode and form.

    Attributes:
        name: Of the row.
        label: Of the encoder in its group.
        kind: Mode and form, as they stand in the name.
        encoder: The encoder.
        entry: What is timed.
    """

    name: str
    label: str
    kind: str
    encoder: CroprViT
    entry: Entry


def run(args: argparse.Namespace) -> None:
    """Time, print and write, group by group.

    Args:
        args: Options of ``benchmarks/speed.py throughput``.

    Raises:
        ValueError: If options do not fit, before anything is timed.
    """
    study = STUDIES[args.study]
    check_outputs(json=args.json, plot=args.plot)
    freeze_weights(args.freeze, args.compile)
    if min(args.batch_sizes) < 1:
        raise ValueError(f"expected batch sizes >= 1, got {args.batch_sizes}")
    if args.rounds < 1:
        raise ValueError(f"expected rounds >= 1, got {args.rounds}")
    dtypes, kernels = args.dtype or study.dtypes, args.sdpa or study.kernels
    modes = [Mode(*kind, args.device) for kind in itertools.product(dtypes, kernels)]
    together = {str(mode): [mode] for mode in modes}
    if study.modes_together:
        names = f"{' '.join(dtypes)}, attention kernel {' '.join(kernels)}, {args.device}"
        together = {names: modes}
    groups = study.groups(args.arch, args.img_sizes)
    with torch.device("meta"):  # what cannot be built fails before anything is timed
        for settings in (s for group in groups for s in group.encoders.values()):
            CroprViT(**settings)
    about = {
        "study": args.study,
        "machine": machine_name(args.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rounds": args.rounds,
        "compile": args.compile,
        "frozen": args.freeze,
    }
    commit = git_commit()
    done = read_done(args.json, about) if args.json else {}
    print(f"{args.study} on {about['machine']}, {about['threads']} CPU threads")
    for group, how, batch_size in itertools.product(groups, together, args.batch_sizes):
        key = f"{group.title}, {how}, batch {batch_size}"
        how_timed = [args.compile, args.freeze, args.rounds, PROTOCOL]
        digest = settings_hash([group, how, batch_size, *how_timed])
        before = done.get(key, {})
        if before.get("idle") and before.get("settings_hash") == digest:
            print(f"\n{key}: measured before, in {args.json}")
            continue
        with show_rounds(key, args.rounds) as on_round:
            found, text = run_group(
                group, together[how], batch_size, args, study.with_memory, on_round
            )
        done[key] = {**found, "commit": commit, "settings_hash": digest}
        print(f"\n{key}{text}", flush=True)
        if args.json:
            record = {**about, "command": shlex.join(["python", *sys.argv]), "groups": done}
            args.json.write_text(json.dumps(record, indent=2, default=list) + "\n")
    if args.json:
        print(f"\nwritten to {args.json}")
    if args.plot:
        ran = {key: found for key, found in done.items() if "error" not in found}
        draw_groups(ran, args.plot)
        print(f"drawn to {args.plot}")
        if study.over_sizes:
            whole = {key: found for key, found in ran.items() if not found.get("errors")}
            sizes = args.plot.with_stem(f"{args.plot.stem}_sizes")
            draw_sizes(whole, sizes)
            print(f"drawn to {sizes}")


def read_done(file: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Groups that an earlier run wrote.

    Raises:
        ValueError: If it ran otherwise: such times do not compare.
    """
    if not file.exists():
        return {}
    record = json.loads(file.read_text())
    for name, value in about.items():
        if record.get(name) != value:
            raise ValueError(
                f"{file} is of another run: expected {name} {value}, got {record.get(name)}; "
                "name another file"
            )
    return record["groups"]


def run_group(
    group: Group,
    modes: list[Mode],
    batch_size: int,
    args: argparse.Namespace,
    with_memory: bool,
    on_round: Callable[[int], None],
) -> tuple[dict[str, Any], str]:
    """Time one group in all modes, or say why it does not run here: memory and kernels have limits.

    Returns:
        Record for JSON, and text behind the title.
    """
    free_memory()  # what the group before has left
    torch._dynamo.reset()  # compiled forms of other groups

    def timed() -> tuple[list[Row], SideBySide]:
        rows = make_rows(group, modes, batch_size, args.compile)
        images = next(iter(rows)).entry.encoder.images
        entries = {row.name: row.entry for row in rows}
        return rows, time_side_by_side(entries, images, rounds=args.rounds, on_round=on_round)

    found, reason = attempt(timed)
    if found is None:
        return {"error": reason, "idle": False}, f"\ndid not run: {reason}"
    rows, result = found
    rows = [row for row in rows if row.name not in result.errors]
    record = result.as_dict()
    for row in rows:
        record["functions"][row.name] |= {
            "mode": asdict(row.entry.mode),
            "settings": group.encoders[row.label],
            "tokens_per_block": row.encoder.tokens_per_block(),
        }
    columns = cost_columns(result, rows)
    if len({row.kind for row in rows}) > 1:
        columns |= own_speedups(result, rows, record)
    if with_memory:
        for how, memory in encoders_memory(group, modes[0], batch_size).items():
            columns |= memory_columns({row.name: memory[row.label] for row in rows}, how)
            for row in rows:
                need = memory[row.label]
                record["functions"][row.name][f"memory_{how}"] = asdict(need) if need else None
    return record, f"{result.warning}\n{result.table(columns)}"


def encoders_memory(
    group: Group, mode: Mode, batch_size: int
) -> dict[str, dict[str, EncoderMemory | None]]:
    """Of each encoder, estimated and on a GPU also measured; None where the GPU is too small."""
    ways: dict[str, Callable[[Mapping[str, Any], int, Mode], EncoderMemory]]
    ways = {"estimated": encoder_memory}
    if mode.device.startswith("cuda"):
        ways["measured"] = measured_memory
    return {
        how: {
            name: attempt(partial(way, settings, batch_size, mode))[0]
            for name, settings in group.encoders.items()
        }
        for how, way in ways.items()
    }


def make_rows(group: Group, modes: list[Mode], batch_size: int, compile: bool = False) -> list[Row]:
    """Encoders of a group with random weights, stripped for inference, each with its images.

    Modes that differ in the kernel of attention, and compiled forms, share one encoder.
    """
    images: dict[tuple[tuple[int, int], torch.dtype], Tensor] = {}
    encoders: dict[tuple[str, torch.dtype], CroprViT] = {}
    rows = []
    for mode, (label, settings) in itertools.product(modes, group.encoders.items()):
        key = label, mode.torch_dtype
        if key not in encoders:
            with torch.device(mode.device):
                encoder = CroprViT(**settings)
            encoder.switch_to_deploy()
            encoders[key] = mode.place(encoder)
        encoder = encoders[key]
        place = encoder.img_size, mode.torch_dtype
        if place not in images:
            images[place] = random_images(batch_size, encoder.img_size, mode)
        module = OnOwnImages(encoder, images[place])
        for compiled in (False, True) if compile else (False,):
            kind = f", {mode.dtype} {mode.sdpa}" if len(modes) > 1 else ""
            kind += ", compiled" if compiled else ""
            entry = encoder_entry(module, module, mode, compiled)
            rows.append(Row(f"{label}{kind}", label, kind, encoder, entry))
    return rows


def own_speedups(
    result: SideBySide, rows: list[Row], record: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """Speed-up of each row over the first of its mode and form, into its record and as a column."""
    bases: dict[str, str] = {}
    texts = {}
    for row in rows:
        base = bases.setdefault(row.kind, row.name)
        ratio = result.latencies.speedup(row.name, base)
        record["functions"][row.name]["speedup_over"] = {base: ratio._asdict()}
        texts[row.name] = ratio.text(len(result.latencies.times[row.name]))
    return {"in its mode and form": texts}


def cost_columns(result: SideBySide, rows: list[Row]) -> dict[str, dict[str, str]]:
    """What pruning removes in all, what is left to compute, and the time that this takes alone."""
    removed, gmacs = {}, {}
    for row in rows:
        patches = row.encoder.grid[0] * row.encoder.grid[1]
        left = min(row.encoder.num_keep().values(), default=patches)
        removed[row.name] = f"{100 * (1 - left / patches):.0f}"
        matmuls = result.floors[row.name].matmuls
        total = macs(matmuls, linear=True) + macs(matmuls, linear=False)
        gmacs[row.name] = f"{total / result.latencies.items / 1e9:.2f}"
    floors = {name: f"{floor.ms:.1f}" for name, floor in result.floors.items()}
    return {"removed %": removed, "GMAC/image": gmacs, "floor ms": floors}


def memory_columns(
    memory: Mapping[str, EncoderMemory | None], how: str
) -> dict[str, dict[str, str]]:
    """Peak with weights of a step in test and of one in training without its optimizer."""
    test, training = {}, {}
    for name, need in memory.items():
        test[name] = gib(need.weights_deployed + need.test) if need else "-"
        training[name] = gib(need.weights + need.training) if need else "-"
    return {f"test GiB {how}": test, f"training GiB {how}": training}


def gib(count: int) -> str:
    """Bytes as text."""
    return f"{count / 2**30:.2f}"
