"""Training steps of a Cropr config and of its dense twin: time, multiply-adds and memory.

Encoder, a linear head and the auxiliary losses on random images and labels; all variants take turns
in one process. Next to each measured speed-up stands what the multiply-adds of the step allow.
Needs torch, torchvision, timm, mmengine and mmcv (which the hooks import), no host library.
"""

import argparse
import copy
import gc
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from cropr_mm.engine.console import check_outputs, show_rounds
from cropr_mm.profiling.candidates import native_size, with_image_size
from cropr_mm.profiling.environment import machine_name, peak_memory
from cropr_mm.profiling.latency import Latencies, measure
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.text_table import format_table
from experiments.encoder_memory import peak_bytes
from experiments.step import (
    DENSE,
    EXACT,
    PRUNED_ROUTERS,
    ROUTERS,
    EncodedTarget,
    Step,
    build,
    encoded_target,
)
from experiments.study_record import study_record


def count_macs(cfg: Config, variant: str) -> int:
    """Multiply-adds of one image's step, forward and backward, counted on the meta device."""
    target, encoded = encoded_target(cfg, 1)
    with torch.device("meta"):
        step = Step(
            cfg, variant, 1, Mode(device="meta"), target=EncodedTarget(target, encoded.to("meta"))
        )
        with FlopCounterMode(display=False) as counter:
            step()
    return counter.get_total_flops() // 2


def count_bytes(cfg: Config, variant: str, batch_size: int, mode: Mode) -> dict[str, int]:
    """Bytes of weights, of AdamW's states, and peak of what a step makes without them.

    On torch's fake tensors, with the kernels of the CPU.
    """
    target, encoded = encoded_target(cfg, batch_size)
    with torch.device("meta"):
        model = build(cfg, variant).to(mode.torch_dtype)
    with FakeTensorMode() as fake:
        made: dict[int, Any] = {
            id(t): torch.empty(t.shape, dtype=t.dtype)
            for t in (*model.parameters(), *model.buffers())
        }
        made |= {id(p): nn.Parameter(made[id(p)]) for p in model.parameters()}
        model = copy.deepcopy(model, made)
        target = EncodedTarget(target, fake.from_tensor(encoded))
        step = Step(cfg, variant, batch_size, Mode(mode.dtype, mode.sdpa), False, target, model)
        sizes = {p: p.numel() * p.element_size() for p in step.model.parameters()}
        states = 2 * sum(size for p, size in sizes.items() if p.requires_grad)
        return dict(weights=sum(sizes.values()), optimizer=states, step=peak_bytes(step))


def measured_bytes(make: Callable[[], Step], device: str) -> int | None:
    """Peak on a GPU with only this variant in memory; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    step = make()
    step()  # state of the optimizer
    peak = peak_memory(step, device)
    del step
    gc.collect()  # hooks and their modules hold each other
    torch.cuda.empty_cache()
    return peak


def run(args: argparse.Namespace) -> None:
    """Count, measure, print and write.

    Args:
        args: Options of ``benchmarks/speed.py train-step``.

    Raises:
        ValueError: If options or the config do not fit, before anything is measured.
    """
    check_outputs(json=args.json)
    if args.batch_size < 1 or args.rounds < 0:
        raise ValueError(
            f"expected batch size >= 1 and rounds >= 0, got {args.batch_size} and {args.rounds}"
        )
    mode = Mode(args.dtype, args.sdpa, args.device)
    cfg = Config.fromfile(args.config)
    if args.img_size:
        cfg = with_image_size(cfg, tuple(args.img_size))
    if args.checkpoint_blocks:
        cfg.model.backbone.with_cp = args.checkpoint_blocks == "on"
    variants = [DENSE, EXACT, *(f"{n} cells" for n in args.num_cells)]
    if args.routers:
        suffixes = ["", *(f", {n} cells" for n in args.num_cells)]
        variants += [f"{kind}{end}" for end in suffixes for kind in (ROUTERS, PRUNED_ROUTERS)]
    makes = {v: partial(Step, cfg, v, args.batch_size, mode, args.optimizer) for v in variants}
    counts = {
        v: dict(macs=count_macs(cfg, v), **count_bytes(cfg, v, args.batch_size, mode))
        for v in variants
    }
    size = native_size(cfg)
    print(
        f"{args.config}, images of {size[0]}x{size[1]} pixels, batch {args.batch_size}, {mode}, "
        f"on {machine_name(mode.device)}\n\ncounted\n{format_table(count_rows(counts))}"
    )
    record: dict[str, Any] = study_record(
        device=mode.device,
        dtype=args.dtype,
        img_size=size,
        batch_size=args.batch_size,
        counted=counts,
    )
    if args.rounds:
        peaks = {v: measured_bytes(make, mode.device) for v, make in makes.items()}
        steps = {v: make() for v, make in makes.items()}
        with show_rounds(f"{len(steps)} steps in turn", args.rounds) as on_round:
            times = measure(
                steps,
                rounds=args.rounds,
                items=args.batch_size,
                device=mode.device,
                warmup=1,
                on_round=on_round,
            )
        idle = "" if times.is_idle else f"; NOT IDLE, load {times.load:.2f}: does not count"
        print(f"\nmeasured{idle}\n{time_table(times, counts, peaks)}")
        record["measured"] = {**times.as_dict(base=DENSE), "peak_bytes": peaks}
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"\nwritten to {args.json}")


def allowed(counts: Mapping[str, Mapping[str, int]], variant: str) -> float:
    """Speed-up over dense that the multiply-adds allow."""
    return counts[DENSE]["macs"] / counts[variant]["macs"]


def count_rows(counts: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Multiply-adds of an image and bytes of a batch, with their ratios to the dense step.

    The last ratio is of all: weights, AdamW's states, and the peak of what the step makes.
    """
    head = ["", "GMAC an image", "MACs allow", "weights GiB", "step GiB", "x dense", "with weights"]
    rows = [[*head, "with states"]]
    dense = counts[DENSE]
    for variant, c in counts.items():
        both = (c["weights"] + c["step"]) / (dense["weights"] + dense["step"])
        row = [f"{c['macs'] / 1e9:.1f}", f"{allowed(counts, variant):.2f}x"]
        row += [f"{c[kind] / 2**30:.3f}" for kind in ("weights", "step")]
        kinds = ("weights", "optimizer", "step")
        every = sum(c[kind] for kind in kinds) / sum(dense[kind] for kind in kinds)
        row += [f"{ratio:.2f}" for ratio in (c["step"] / dense["step"], both, every)]
        rows.append([variant, *row])
    return rows


def time_table(
    times: Latencies, counts: Mapping[str, Mapping[str, int]], peaks: Mapping[str, int | None]
) -> str:
    """Times with what the multiply-adds allow and, on a GPU, the peaks."""
    allows = {v: allowed(counts, v) for v in times.times}
    reached = {v: times.speedup(v, DENSE).value / x for v, x in allows.items()}
    columns = {
        "MACs allow": {v: f"{x:.2f}x" for v, x in allows.items()},
        "of that": {v: f"{x:.2f}" for v, x in reached.items()},
    }
    if all(peaks.values()):
        columns["peak GiB"] = {v: f"{(peak or 0) / 2**30:.2f}" for v, peak in peaks.items()}
        base = peaks[DENSE] or 1
        columns["x dense"] = {v: f"{(peak or 0) / base:.2f}" for v, peak in peaks.items()}
    return times.table(DENSE, columns)
