"""The stages of the demo.

An interrupted demo goes on where it stopped; a finished one starts anew.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from cropr_mm.datasets import make_demo_data
from cropr_mm.demo.demo_report import check_thresholds, format_report
from cropr_mm.demo.sheet import draw_sheet
from cropr_mm.demo.tasks import DemoTask
from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.train import train
from cropr_mm.hooks.progress_hook import say


def run_demo(task: DemoTask, configs: str | Path, work_dir: str | Path) -> int:
    """Make data, train, test against the dense twin, draw, and print what came out.

    Args:
        task: Its config has a ``PruningMapHook``; the data go to the ``data_root`` of its training
            set.
        configs: Folder that holds the task's config.
        work_dir: Folder for all output.

    Returns:
        0, 1 if a threshold of :mod:`cropr_mm.demo.demo_report` is broken, or 130 if interrupted.

    Raises:
        SetupError: If config or data do not fit.
    """
    try:
        return _run(task, str(Path(configs) / task.config), Path(work_dir))
    except KeyboardInterrupt:
        say("\ninterrupted: the same command goes on from the last checkpoint")
        return 130


def _run(task: DemoTask, config: str, work_dir: Path) -> int:
    stages: dict[str, float] = {}
    cfg = load_config(config, str(work_dir))
    with _stage("data", stages):
        facts = make_demo_data(cfg.data_root)
        say(
            f"  {facts['train_images']} images to train, {facts['val_images']} to test, "
            f"of handwritten digits in {cfg.data_root}"
        )
    threads = _use_cores(cfg.train_dataloader.num_workers)
    with _stage(f"train on {threads} thread{'s' * (threads > 1)}", stages):
        _train_or_resume(cfg, work_dir)
    with _stage("test and benchmark", stages), _output_to(work_dir / "output.txt"):
        shutil.rmtree(work_dir / "vis", ignore_errors=True)
        cfg = load_config(config, str(work_dir))
        metrics = evaluate(cfg, str(_latest_checkpoint(work_dir)), benchmark=True)
    benchmark = json.loads((work_dir / "benchmark.json").read_text())
    tokens = benchmark["tokens_per_block"]
    sheet = work_dir / "pictures.png"
    with _stage("pictures", stages):
        draw_sheet(sorted((work_dir / "vis").glob("*.png"))[:8], task.title, sheet)
    result, broken = check_thresholds(task, metrics, tokens)
    record = dict(metrics=result, stages_s=stages, benchmark=benchmark, broken=broken)
    files = {
        "pictures": sheet,
        "single pictures": work_dir / "vis",
        "all numbers": work_dir / "demo.json",
        "full output": work_dir / "output.txt",
        "checkpoint": _latest_checkpoint(work_dir),
    }
    say(format_report(task, record, files))
    (work_dir / "demo.json").write_text(json.dumps(record, indent=2) + "\n")
    return int(bool(broken))


def _use_cores(num_workers: int) -> int:
    """Give torch the cores that data workers leave; OMP_NUM_THREADS has the last word.

    Threads that wait for a core which something else uses are slower than one thread alone, and a
    model this small does not fill many.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = min(4, max(1, (cores or 1) - num_workers))
    threads = int(os.environ.get("OMP_NUM_THREADS") or free)
    torch.set_num_threads(threads)
    return threads


def _train_or_resume(cfg: Config, work_dir: Path) -> None:
    """Train from where an interrupted demo of the same config stopped, or from the start."""
    settings = work_dir / "settings.py"
    text = cfg.pretty_text
    if (work_dir / "demo.json").exists() or not settings.exists() or settings.read_text() != text:
        shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    settings.write_text(text)
    latest = _latest_checkpoint(work_dir)
    if latest is not None and Path(latest).stem == f"iter_{cfg.train_cfg.max_iters}":
        say(f"  already trained: {latest}")
        return
    if latest is not None:
        say(f"  going on from {latest}")
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="cropr_mm.ProgressHook")]
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None  # the test follows at once
    with _output_to(work_dir / "output.txt"):
        train(cfg, latest)


def _latest_checkpoint(work_dir: Path) -> str | None:
    return find_latest_checkpoint(str(work_dir)) if list(work_dir.glob("iter_*.pth")) else None


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Send the host libraries' standard output to a file; standard error stays."""
    with file.open("a") as out, redirect_stdout(out):
        yield


@contextmanager
def _stage(name: str, stages: dict[str, float]) -> Iterator[None]:
    """Print the name of a stage and note its time, in seconds."""
    say(f"[{len(stages) + 1}/4] {name}")
    start = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - start
