"""Train, test and draw a pruned detector on handwritten digits: the whole package in minutes.

An interrupted demo goes on where it stopped; a finished one starts anew.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from cropr_mm.analysis.latency import format_table, measure
from cropr_mm.datasets import make_demo_data
from cropr_mm.hooks.pruning_map import block_colours
from cropr_mm.registry import HOOKS
from cropr_mm.runner import evaluate, load_config, short_errors, train

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/demo/cropr_tiny_cascade_digits.py"
PROMISES = {"coco/bbox_mAP_50": 0.5, "coco/segm_mAP_50": 0.5, "pruned": 0.85}
METRICS = {
    "coco/bbox_mAP_50": "box AP50",
    "coco/segm_mAP_50": "mask AP50",
    "coco/bbox_mAP": "box AP",
    "coco/segm_mAP": "mask AP",
    "pruned": "tokens pruned",
}


@HOOKS.register_module()
class DemoProgressHook(Hook):
    """One short line per twentieth of the training."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        self._start, self._first = time.perf_counter(), runner.iter
        say(f"  iterations {runner.iter + 1} to {runner.max_iters}")

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        done, total = runner.iter + 1, runner.max_iters
        if done % max(1, total // 20) and done != total:
            return
        pace = (time.perf_counter() - self._start) / (done - self._first)
        loss = float((outputs or {})["loss"].detach())
        say(
            f"  {done:5d}/{total}   loss {loss:6.3f}   {pace:.2f} s per iteration   "
            f"{minutes(pace * (total - done))} left"
        )


def main() -> None:
    """Run the stages, print the table, and fail if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("det", "seg", "cls"), default="det")
    parser.add_argument("--config", default=CONFIG, help="config to run (default: %(default)s)")
    parser.add_argument("--work-dir", default="work_dirs/demo", help="default: %(default)s")
    args = parser.parse_args()
    if args.task != "det":
        parser.error(f"task {args.task} is not available yet; available: det")
    os.chdir(ROOT)
    try:
        with short_errors():
            sys.exit(run(args.config, Path(args.work_dir)))
    except KeyboardInterrupt:
        say("\ninterrupted: the same command goes on from the last checkpoint")
        sys.exit(130)


def run(config: str, work_dir: Path) -> int:
    """Run the demo in ``work_dir``; returns 0, or 1 if a promise is broken."""
    stages: dict[str, float] = {}
    with stage("data", stages):
        facts = make_demo_data("data/demo")
        say(
            f"  {facts['train_images']} images to train, {facts['val_images']} to test, "
            f"of handwritten digits in data/demo"
        )
    cfg = load_config(config, str(work_dir))
    threads = use_cores(cfg.train_dataloader.num_workers)
    with stage(f"train on {threads} thread{'s' * (threads > 1)}", stages):
        train_or_resume(cfg, work_dir)
    with stage("test and benchmark", stages), output_to(work_dir / "output.txt"):
        shutil.rmtree(work_dir / "vis", ignore_errors=True)
        cfg = load_config(config, str(work_dir))
        metrics = evaluate(cfg, str(latest_checkpoint(work_dir)), benchmark=True)
    benchmark = json.loads((work_dir / "benchmark.json").read_text())
    tokens = benchmark["tokens_per_block"]
    sheet = work_dir / "pictures.png"
    with stage("pictures", stages):
        draw_sheet(sorted((work_dir / "vis").glob("*.png"))[:8], tokens, sheet)
    result = {name: float(metrics[name]) for name in METRICS if name in metrics}
    result["pruned"] = 1 - min(tokens) / max(tokens)
    broken = {name for name, least in PROMISES.items() if not result[name] >= least}
    say(report(result, broken, benchmark, stages, work_dir, sheet))
    record = dict(metrics=result, stages_s=stages, benchmark=benchmark, broken=sorted(broken))
    (work_dir / "demo.json").write_text(json.dumps(record, indent=2) + "\n")
    return int(bool(broken))


def train_or_resume(cfg: Config, work_dir: Path) -> None:
    """Train from where an interrupted demo of the same config stopped, or from the start."""
    settings = work_dir / "settings.py"
    text = cfg.pretty_text
    if (work_dir / "demo.json").exists() or not settings.exists() or settings.read_text() != text:
        shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    settings.write_text(text)
    latest = latest_checkpoint(work_dir)
    if latest is not None and Path(latest).stem == f"iter_{cfg.train_cfg.max_iters}":
        say(f"  already trained: {latest}")
        return
    if latest is not None:
        say(f"  going on from {latest}")
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="cropr_mm.DemoProgressHook")]
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None  # the test follows at once
    with output_to(work_dir / "output.txt"):
        train(cfg, latest)


def latest_checkpoint(work_dir: Path) -> str | None:
    """Path of the last checkpoint, if there is one."""
    return find_latest_checkpoint(str(work_dir)) if list(work_dir.glob("iter_*.pth")) else None


def use_cores(num_workers: int) -> int:
    """Let torch use the cores that data workers leave, or one if they prove to be busy.

    Threads that wait for a core which another program uses are several times slower than one
    thread. OMP_NUM_THREADS has the last word.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (cores or 1) - num_workers))
    if threads > 1 and not os.environ.get("OMP_NUM_THREADS"):
        tokens, weights = torch.randn(2048, 128), torch.randn(128, 512)

        def work(number: int) -> None:
            torch.set_num_threads(number)
            for _ in range(20):
                torch.nn.functional.gelu(tokens @ weights)

        trials = {str(number): partial(work, number) for number in (1, threads)}
        times = measure(trials, rounds=15)
        threads = min((1, threads), key=lambda number: sum(times.times[str(number)]))
    torch.set_num_threads(threads)
    return threads


def say(text: str) -> None:
    """Print on the console, also where standard output goes to a file."""
    print(text, file=sys.__stdout__, flush=True)


@contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Send the host libraries' standard output to a file; standard error stays."""
    with file.open("a") as out, redirect_stdout(out):
        yield


def draw_sheet(files: Sequence[Path], tokens: Sequence[int], out: Path) -> None:
    """Put pictures of the pruning hook on one sheet, two a row, with a legend.

    Args:
        files: Pictures: detections on the left, pruning map on the right.
        tokens: Tokens that enter each block.
        out: PNG file to write.
    """
    last = len(tokens) - 1  # there, all tokens are back
    steps = [(i, tokens[i], tokens[i + 1]) for i in range(last) if tokens[i + 1] < tokens[i]]
    colours = block_colours(len(steps)) / 255
    legend = [
        Patch(color=colour, label=f"left after block {i + 1} ({before - after} of {tokens[0]})")
        for (i, before, after), colour in zip(steps, colours, strict=True)
    ]
    legend.append(Patch(fill=False, edgecolor="grey", label=f"stayed to the end ({min(tokens)})"))
    rows = -(-len(files) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(13, 3.3 * rows + 1), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, file in zip(axes.flat, files, strict=False):
        axis.imshow(plt.imread(file))
    figure.suptitle(
        "Detections, and which patches the detector needed to the end", fontsize=15, y=0.995
    )
    figure.legend(handles=legend, loc="lower center", ncols=len(legend), frameon=False, fontsize=11)
    figure.tight_layout(rect=(0, 0.04, 1, 0.99))
    figure.savefig(out, dpi=100)
    plt.close(figure)


def report(
    result: dict[str, float],
    broken: set[str],
    benchmark: dict[str, Any],
    stages: dict[str, float],
    work_dir: Path,
    sheet: Path,
) -> str:
    """Everything a reader wants to know at the end, as aligned text."""
    quality = [["", "result", "promised"]]
    for name, title in METRICS.items():
        promise = f"{PROMISES[name]:.2f}" if name in PROMISES else ""
        quality.append(
            [title, f"{result[name]:.3f}", promise + (" BROKEN" if name in broken else "")]
        )
    tokens = [["block", *(str(i + 1) for i in range(len(benchmark["tokens_per_block"])))]]
    tokens.append(["tokens, dense", *map(str, benchmark["tokens_per_block_dense"])])
    tokens.append(["tokens, pruned", *map(str, benchmark["tokens_per_block"])])
    speed = [["images per second", "dense", "pruned", "speed-up"]]
    for part in ("encoder", "model"):
        functions = benchmark[part]["functions"]
        dense, pruned = functions["dense"], functions["pruned"]
        speed.append(
            [
                part,
                f"{dense['images_per_s']:.1f}",
                f"{pruned['images_per_s']:.1f}",
                f"{pruned['speedup']['value']:.2f}x",
            ]
        )
    idle = benchmark["encoder"]["idle"] and benchmark["model"]["idle"]
    files = [
        ["pictures", str(sheet)],
        ["single pictures", str(work_dir / "vis")],
        ["all numbers", str(work_dir / "demo.json")],
        ["full output", str(work_dir / "output.txt")],
        ["checkpoint", str(latest_checkpoint(work_dir))],
    ]
    times = [["stage", "time"], *([name, minutes(took)] for name, took in stages.items())]
    times.append(["all", minutes(sum(stages.values()))])
    parts = [
        format_table(quality),
        format_table(tokens),
        format_table(speed)
        + ("" if idle else "\n(other processes were busy meanwhile: the speed does not count)"),
        format_table(times),
        "\n".join(f"{name:16}  {place}" for name, place in files),
    ]
    return "\n" + "\n\n".join(parts)


def minutes(seconds: float) -> str:
    """Time for people."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


@contextmanager
def stage(name: str, stages: dict[str, float]) -> Iterator[None]:
    """Print the name of a stage and note its time, in seconds."""
    say(f"[{len(stages) + 1}/4] {name}")
    start = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - start


if __name__ == "__main__":
    main()
