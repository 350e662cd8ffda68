"""What it costs to prune a trained model, and what one elastic training is worth.

Everything starts from the dense model of ``benchmarks/pruners.py compare``. *none*: its weights,
pruned without training. *routers*: the modules of Cropr learn in the frozen model, in one dense
pass for all rates, or in pruned passes. *all*: fine-tuning, taken from ``compare`` where it did the
same. *elastic*: one fine-tuning at changing shares, tested at each rate.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from cropr_mm.datasets import make_demo_data
from cropr_mm.engine.preflight import SetupError
from cropr_mm.text_table import format_table
from experiments.benchmark_tasks import BENCHMARK_TASKS, BenchmarkTask
from experiments.bootstrap import paired_interval
from experiments.comparison_report import Values, interval_text, score
from experiments.inputs import check_inputs
from experiments.runs import PRETRAINING, Run, execute, execute_test, fit_shortcuts, make_config
from experiments.scores import TASKS
from experiments.stored_runs import stored_runs
from experiments.study_record import study_record

_MOST = 87
"""Percent pruned at most by a training for all rates."""


class Way(NamedTuple):
    """One way to a pruned model.

    Attributes:
        price: 'none', 'routers', 'all' or 'elastic'.
        variant: Name of a pruned variant, without a rate.
        progress: Of routers: share of the reduction while they learn.
    """

    price: str
    variant: str
    progress: float = 0.0

    @property
    def serves_all(self) -> bool:
        """Whether one training, or one fit of shortcuts, serves all rates."""
        dense_passes = self.price == "routers" and self.progress == 0
        return dense_passes or self.price in ("none", "elastic")


WAYS = {
    "none, random": Way("none", "random"),
    "none, variance": Way("none", "variance"),
    "none, attention": Way("none", "attn_topk"),
    "none, random, shortcuts": Way("none", "random_shortcut"),
    "none, variance, shortcuts": Way("none", "variance_shortcut"),
    "none, attention, shortcuts": Way("none", "attn_topk_shortcut"),
    "none, shortcut pruner": Way("none", "shortcut"),
    "routers, cropr": Way("routers", "cropr"),
    "routers, cropr, pruned passes": Way("routers", "cropr", progress=1.0),
    "routers, one query": Way("routers", "cropr_image"),
    "routers, query per cell": Way("routers", "cropr_cells"),
    "all, random": Way("all", "random"),
    "all, variance": Way("all", "variance"),
    "all, cropr": Way("all", "cropr"),
    "all, cropr, shortcuts": Way("all", "cropr_shortcut"),
    "all, shortcut pruner": Way("all", "shortcut"),
    "elastic, cropr": Way("elastic", "cropr"),
}
"""By name; 'cropr' has the queries and targets of the benchmark, one query and a query per cell are
for segmenters."""
DEFAULT_WAYS = [name for name in WAYS if "query" not in name]


def prices(
    benchmark: str,
    ways: Sequence[str],
    rates: Sequence[int],
    seeds: Sequence[int],
    runs: Path,
    out: Path,
    samples: int = 500,
) -> Path:
    """Train and test what is not done yet, then write and print the table.

    Args:
        benchmark: Name out of BENCHMARK_TASKS.
        ways: Names out of WAYS.
        rates: Shares of the patch tokens that are pruned, percent.
        seeds: Seeds, at least one.
        runs: Folder of the dense models.
        out: Folder for all output.
        samples: Bootstrap samples of images.

    Returns:
        File with all numbers, JSON.

    Raises:
        SetupError: If data, weights or a dense model are missing, an elastic training is asked for
            a rate that it does not reach, a process fails or a model does not converge.
    """
    beyond = [rate for rate in rates if rate > _MOST]
    if beyond and any(WAYS[way].price == "elastic" for way in ways):
        raise SetupError(
            f"the elastic training prunes {_MOST} % at most: expected --rates up to that, "
            f"got {', '.join(map(str, beyond))}"
        )
    task = BENCHMARK_TASKS[benchmark]
    check_inputs(benchmark)
    trained = stored_runs(runs.absolute(), [benchmark], [PRETRAINING], seeds)
    for root, look in task.demo_data.items():
        make_demo_data(root, look)
    folder = out.absolute() / benchmark
    done: dict[tuple[str, int, int], Run] = {}
    for seed, dense in zip(seeds, trained, strict=True):
        done["dense", 0, seed] = dense
        for way in ways:
            for rate in rates:
                place = folder / f"seed{seed}" / way.replace(", ", "_").replace(" ", "-")
                run = _fine_tuned(WAYS[way], rate, task, dense)
                if run is None:
                    run = Run(benchmark, seed, f"{WAYS[way].variant}@{rate}", place / str(rate))
                    _execute(run, WAYS[way], task, dense, place)
                if run.failure:
                    raise SetupError(f"{run}, {way}: {run.failure}")
                done[way, rate, seed] = run
                print(f"{run}, {way}: {run.metrics}")
    record = study_record(
        benchmark=benchmark,
        metric=TASKS[task.task].main,
        seeds=list(seeds),
        samples=samples,
        rows=_rows(done, ways, rates, seeds, samples),
    )
    file = folder / "prices.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{table(record)}\n\nnumbers  {file}")
    return file


def _fine_tuned(way: Way, rate: int, task: BenchmarkTask, dense: Run) -> Run | None:
    """A run of the command compare beside the dense model that is this one; None without one."""
    if way.price != "all":
        return None
    names = [f"{way.variant}@{rate}", *[way.variant] * (rate == task.percent)]
    for name in names:
        run = Run(dense.benchmark, dense.seed, name, dense.folder.parent / name)
        if not (run.folder / "result.json").exists() or run.failure:
            continue
        if run.config.read_text() == make_config(run, task, dense.checkpoint).pretty_text:
            return run
    return None


def _execute(run: Run, way: Way, task: BenchmarkTask, dense: Run, place: Path) -> None:
    """Do one run, with the training that it belongs to."""
    start, serves_all = dense.checkpoint, way.serves_all
    name = f"{way.variant}@{_MOST}"
    training = Run(run.benchmark, run.seed, name, place / "all") if serves_all else run
    cfg = make_config(training, task, start)
    if way.price == "none":
        weights = fit_shortcuts(training, cfg) or start
        execute_test(run, make_config(run, task, start), weights)
        return
    if way.price == "routers":
        _add_hook(cfg, dict(type="cropr_mm.CroprRouterHook", progress=way.progress))
    if way.price == "elastic":
        _add_hook(cfg, dict(type="cropr_mm.CroprElasticHook"))
    execute(training, cfg)
    if training.failure:
        raise SetupError(f"{training} did not converge: {training.failure}")
    if serves_all:
        execute_test(run, make_config(run, task, start), training.checkpoint)


def _add_hook(cfg: Config, hook: dict[str, Any]) -> None:
    """Add a hook in the place of a curriculum."""
    others = [h for h in cfg.custom_hooks if h["type"] != "cropr_mm.CroprCurriculumHook"]
    cfg.custom_hooks = [*others, hook]


def _rows(
    done: dict[tuple[str, int, int], Run],
    ways: Sequence[str],
    rates: Sequence[int],
    seeds: Sequence[int],
    samples: int,
) -> list[dict[str, Any]]:
    """Metric of each way at each rate, and its difference to the dense model, in percent."""
    results = {key: score(run, samples) for key, run in done.items()}
    dense = [results["dense", 0, seed] for seed in seeds]
    rows = [dict(way="dense", rate=0, **interval_of(dense))]
    for way in ways:
        for rate in rates:
            own = [results[way, rate, seed] for seed in seeds]
            rows.append(
                dict(
                    way=way,
                    rate=rate,
                    **interval_of(own),
                    minus_dense=interval_of(own, dense),
                    minutes=_minutes(way, done[way, rate, seeds[0]]),
                )
            )
            for other in ("none, random", "none, attention", "all, cropr"):
                if other in ways and other != way:
                    theirs = [results[other, rate, seed] for seed in seeds]
                    rows[-1][f"minus {other}"] = interval_of(own, theirs)
    return rows


def interval_of(own: Sequence[Values], other: Sequence[Values] | None = None) -> dict[str, float]:
    """Mean and 95 % interval of the last metric, or of its paired difference."""
    metric = list(own[0].whole)[-1]
    values = np.array([one.whole[metric] for one in own])
    resampled = np.stack([one.resampled[metric] for one in own])
    if other is not None:
        values = values - np.array([one.whole[metric] for one in other])
        resampled = resampled - np.stack([one.resampled[metric] for one in other])
    return paired_interval(values, resampled)._asdict()


def _minutes(way: str, run: Run) -> float:
    """Minutes of its training, of all rates where one serves them; 0 without one."""
    if WAYS[way].price == "none":
        return 0.0
    if WAYS[way].serves_all:
        run = Run(run.benchmark, run.seed, run.name, run.folder.parent / "all")
    result = run.result
    return result.get("seconds_per_iteration", 0.0) * result.get("iterations", 0) / 60


def table(record: dict[str, Any]) -> str:
    """Text table of a record: metric and difference to the dense model by way and rate."""
    rows = [["way", "pruned", record["metric"], "minus dense (95 %)", "minutes"]]
    for row in record["rows"]:
        cells = [row["way"], f"{row['rate']} %", f"{row['value']:.1f}"]
        if "minus_dense" in row:
            cells += [interval_text(row["minus_dense"], signed=True), f"{row['minutes']:.1f}"]
        rows.append([*cells, *[""] * (5 - len(cells))])
    return format_table(rows)
