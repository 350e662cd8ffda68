"""A deadline for each frame of a video under a load that comes and goes, on a real clock.

The encoder of a config, dense alone and under ``DeadlineRunner`` with several shares of its
reduction. Busy processes start and end every few frames. The two take turns in each period, so
that both meet the same load. Random weights: an encoder's time does not depend on their values.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.engine.console import check_outputs
from cropr_mm.export.runtime.deadline import DeadlineReport, DeadlineRunner
from cropr_mm.profiling.candidates import native_size
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.registry import MODELS
from experiments.study_record import study_record


def run(args: argparse.Namespace) -> None:
    """Play the video, print and write what became of its frames.

    Args:
        args: Options of ``benchmarks/speed.py deadline``.

    Raises:
        ValueError: If options or the config do not fit.
    """
    check_outputs(json=args.json)
    if args.periods < 2 or args.frames < 1 or args.factor <= 0:
        raise ValueError(
            f"expected periods >= 2, frames >= 1 and factor > 0, got {args.periods}, {args.frames} "
            f"and {args.factor}"
        )
    in_order = sorted(set(args.shares)) == args.shares and len(args.shares) > 1
    if not in_order or args.shares[0] < 0 or args.shares[-1] > 1:
        raise ValueError(f"expected two ascending shares or more in [0, 1], got {args.shares}")
    mode, cfg = Mode(args.dtype, device="cpu"), Config.fromfile(args.config)
    encoder = mode.place(MODELS.build(dict(cfg.model.backbone, init_cfg=None)))
    encoder.switch_to_deploy()
    image = mode.place(torch.randn(1, 3, *native_size(cfg)))
    models = {f"{share:g}": at_share(encoder, share, mode) for share in args.shares}
    first = next(iter(models.values()))
    usual = median(_timed(first, image) for _ in range(10))
    deadline = args.factor * usual
    runner, dense = DeadlineRunner(models, deadline), DeadlineReport(deadline)
    played: dict[str, list[tuple[str, float]]] = dict(runner=[], alone=[])
    runner(image)  # times all models
    runner.report = DeadlineReport(deadline)  # that was no frame of the video
    loads = (os.cpu_count() or 1) if args.load is None else args.load
    with busy_processes(loads) as switch:
        for period in range(args.periods):
            switch(period % 2 == 1)
            for _ in range(args.frames):
                played["runner"].append((runner.choose(), _timed(runner, image)))
            for _ in range(args.frames):
                played["alone"].append((next(iter(models)), _timed(first, image)))
                dense.add(*played["alone"][-1])
    print(f"{args.config}, {loads} busy processes in every second of {args.periods} periods")
    print(f"share {args.shares[0]:g} alone   {dense}\nDeadlineRunner  {runner.report}")
    if args.json:
        record = study_record(
            usual_ms=usual,
            busy_processes=loads,
            threads=torch.get_num_threads(),
            alone=_record(dense, played["alone"]),
            runner=_record(runner.report, played["runner"]),
        )
        args.json.write_text(json.dumps(record, indent=2) + "\n")
        print(f"written to {args.json}")


def at_share(encoder: ReducingBackbone, share: float, mode: Mode) -> Callable[[Tensor], Any]:
    """The encoder as a function of an image, at a share of its reduction."""

    def call(image: Tensor) -> Any:
        encoder.progress = share
        with mode.running():
            return encoder(image)

    return call


@contextmanager
def busy_processes(count: int) -> Iterator[Callable[[bool], None]]:
    """Function that lets processes compute or stand still; they end with the block."""
    endless = [sys.executable, "-c", "while True: pass"]
    processes: list[subprocess.Popen[bytes]] = []

    def switch(busy: bool) -> None:
        for process in processes:
            process.send_signal(signal.SIGCONT if busy else signal.SIGSTOP)

    try:
        processes.extend(subprocess.Popen(endless) for _ in range(count))
        yield switch
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _timed(model: Callable[[Tensor], Any], image: Tensor) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    model(image)
    return 1e3 * (time.perf_counter() - start)


def _record(report: DeadlineReport, played: Sequence[tuple[str, float]]) -> dict[str, Any]:
    return dict(
        deadline_ms=report.deadline_ms,
        share_met=report.share_met,
        worst_ms=report.worst_ms,
        switches=report.switches,
        times_ms=[ms for _, ms in played],
        names=[name for name, _ in played],
    )
