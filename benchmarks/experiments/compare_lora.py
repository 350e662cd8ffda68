"""What a pretrained encoder is worth, and what is lost when less of it trains.

One pruned model of a benchmark, in equally many iterations of equal batches: *full*, from the
pretrained encoder, all of it trains; *lora*, low-rank adapters train in the place of its blocks;
*frozen*, nothing of it trains; *random weights*, as full without the pretrained encoder. Reducers
and head always train. Memory is estimated for the step that needs most. Steps of all ways take
turns on one thread, and their processor time counts: other work on the machine changes it little.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from cropr_mm.engine.preflight import SetupError
from cropr_mm.profiling.candidates import native_size
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.text_table import format_table
from experiments.benchmark_tasks import BENCHMARK_TASKS, WARMUP_ITERS
from experiments.comparison_report import interval_text, score
from experiments.inputs import check_inputs
from experiments.model_memory import training_step
from experiments.prices import interval_of
from experiments.recipe_memory import (
    PRUNED,
    first_progress,
    set_progress,
    set_way,
    step_memory,
    total,
)
from experiments.runs import Run, execute, make_config
from experiments.scores import TASKS
from experiments.study_record import study_record
from experiments.training_batch import random_training_batch
from experiments.whole_model import whole_model

FULL, SCRATCH = "full", "random weights"
ROUNDS = 3
"""Timed steps of each way, after one that is not timed."""
OBJECTS = 20
"""In a random image of a detector."""


def _lora(cfg: Config) -> None:
    """Adapters learn at the rate of the head; the rates of blocks are for pretrained weights."""
    set_way(cfg, "lora")
    rates = cfg.optim_wrapper.paramwise_cfg.custom_keys
    for name in [name for name in rates if name.startswith("backbone.blocks.")]:
        del rates[name]


def _from_random_weights(cfg: Config) -> None:
    del cfg.model.backbone["init_cfg"]


WAYS: Mapping[str, Callable[[Config], None]] = {
    FULL: lambda cfg: None,
    "lora": _lora,
    "frozen": partial(set_way, way="frozen"),
    SCRATCH: _from_random_weights,
}
"""Changes of the config of a pruned model that trains whole from a pretrained encoder, by name."""


def compare_lora(
    benchmark: str,
    ways: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    iterations: int | None = None,
    samples: int = 500,
) -> Path:
    """Train and test what is not done yet, then write and print the table.

    Args:
        benchmark: Name out of BENCHMARK_TASKS, with a pretrained encoder.
        ways: Names out of WAYS; 'full' is always among them.
        seeds: Seeds, at least one.
        out: Folder for all output.
        iterations: Of each training. Default: those of the benchmark's dense model.
        samples: Bootstrap samples of images.

    Returns:
        File with all numbers, JSON.

    Raises:
        SetupError: If the benchmark has no pretrained encoder, data or weights are missing, a
            process fails or a model does not converge.
    """
    task = BENCHMARK_TASKS[benchmark]
    if not Config.fromfile(task.pruned).model.backbone.get("init_cfg"):
        raise SetupError(f"expected a benchmark with a pretrained encoder, got {benchmark}")
    check_inputs(benchmark)
    folder = out.absolute() / benchmark
    names = list(dict.fromkeys([FULL, *ways]))
    done: dict[tuple[str, int], Run] = {}
    for seed in seeds:
        for name in names:
            place = folder / f"seed{seed}" / name.replace(" ", "-")
            run = done[name, seed] = Run(benchmark, seed, "cropr", place)
            execute(run, _config(run, name, iterations))
            if run.failure:
                raise SetupError(f"{run}, {name} did not converge: {run.failure}")
            print(f"{run}, {name}: {run.metrics}", flush=True)
    configs = {name: Config.fromfile(done[name, seeds[0]].config) for name in names}
    record = study_record(
        benchmark=benchmark,
        metric=TASKS[task.task].main,
        iterations=done[FULL, seeds[0]].result["iterations"],
        seeds=list(seeds),
        samples=samples,
        rows=_rows(done, names, seeds, samples),
    )
    for row, cost in zip(record["rows"], costs(configs).values(), strict=True):
        row |= cost
    file = folder / "lora.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{table(record)}\n\nnumbers  {file}")
    return file


def _config(run: Run, way: str, iterations: int | None) -> Config:
    """Config of one training, from what the benchmark's config names."""
    cfg = make_config(run, BENCHMARK_TASKS[run.benchmark], None)
    WAYS[way](cfg)
    if iterations is not None:
        if iterations <= WARMUP_ITERS:
            raise SetupError(f"expected more than {WARMUP_ITERS} iterations, got {iterations}")
        cfg.train_cfg.max_iters = cfg.param_scheduler[-1].end = iterations
    return cfg


def _rows(
    done: Mapping[tuple[str, int], Run], names: Sequence[str], seeds: Sequence[int], samples: int
) -> list[dict[str, Any]]:
    """Metric of each way and what it has more than full and than random weights, in percent."""
    results = {key: score(run, samples) for key, run in done.items()}
    rows = []
    for name in names:
        own = [results[name, seed] for seed in seeds]
        row: dict[str, Any] = dict(way=name, **interval_of(own))
        for other in (FULL, SCRATCH):
            if other in names and other != name:
                theirs = [results[other, seed] for seed in seeds]
                row[f"minus {other}"] = interval_of(own, theirs)
        rows.append(row)
    return rows


def costs(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """Memory and processor time of trainings on one thread.

    Args:
        configs: Complete configs of trainings of pruned models, by name.

    Returns:
        By the same names: bytes of 'weights', 'optimizer' and 'training' (see
        :class:`experiments.model_memory.TrainingMemory`), 'cpu_seconds' of a step at no reduction
        and at all of it, and 'cpu_minutes' of all steps; a curriculum lies between the two.
    """
    mode, threads = Mode("fp32"), torch.get_num_threads()
    found: dict[str, dict[str, Any]] = {}
    steps: dict[tuple[str, float], Callable[[], None]] = {}
    for name, cfg in configs.items():
        size, images = native_size(cfg), cfg.train_dataloader.batch_size
        found[name] = dict(vars(step_memory(cfg, PRUNED, images, mode, OBJECTS)), images=images)
        model = whole_model(cfg, PRUNED).train()
        model.init_weights()  # some of DINO's parameters have no values before
        batch = model.data_preprocessor(random_training_batch(cfg, images, size, OBJECTS), True)
        for progress in (0.0, 1.0):
            steps[name, progress] = partial(_step_at, progress, model, batch, mode)
    torch.set_num_threads(1)
    times: dict[tuple[str, float], list[float]] = {key: [] for key in steps}
    try:
        for _ in range(1 + ROUNDS):
            for key, step in steps.items():
                start = time.process_time()
                step()
                times[key].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    for name, cfg in configs.items():
        first, last = (median(times[name, progress][1:]) for progress in (0.0, 1.0))
        share = mean_progress(cfg)
        minutes = cfg.train_cfg.max_iters * (first + share * (last - first)) / 60
        found[name] |= dict(cpu_seconds=[first, last], cpu_minutes=minutes)
    return found


def _step_at(progress: float, model: nn.Module, batch: dict[str, Any], mode: Mode) -> None:
    set_progress(model, progress)
    training_step(model, batch, mode)
    model.zero_grad(set_to_none=True)


def mean_progress(cfg: Config) -> float:
    """Mean over a training of the share of the reduction that is in force."""
    if first_progress(cfg) == 1.0:
        return 1.0
    (hook,) = (hook for hook in cfg.custom_hooks if hook["type"] == "cropr_mm.CroprCurriculumHook")
    return 1.0 - (hook.get("start", 0.0) + hook.get("end", 0.5)) / 2


def table(record: Mapping[str, Any]) -> str:
    """Text table of a record."""
    return format_table(cells(record))


def cells(record: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows: metric with its differences, memory and processor time."""
    others = [f"minus {other}" for other in (FULL, SCRATCH)]
    rows = [["encoder", record["metric"], *others, "GiB", "CPU minutes"]]
    for row in record["rows"]:
        differences = [interval_text(row.get(other), signed=True) for other in others]
        costs = [f"{total(row) / 2**30:.2f}", f"{row['cpu_minutes']:.1f}"]
        rows.append([row["way"], interval_text(row), *differences, *costs])
    return rows
