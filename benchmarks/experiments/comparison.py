"""The whole comparison: runs in order, then what they say."""

import importlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cropr_mm.datasets import make_demo_data
from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.comparison_plots import draw, draw_curves
from experiments.comparison_report import format_tables, summarize
from experiments.encoder_speed import encoder_speed
from experiments.inputs import check_inputs
from experiments.run_records import take_record, taken_values
from experiments.runs import PRETRAINING, Run, execute, make_config
from experiments.variants import find_variant

Group = tuple[str, int]
"""BenchmarkTask and seed."""


def compare(
    benchmarks: Sequence[str],
    variants: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    samples: int = 500,
    compile: bool = False,
    rounds: int = 30,
    imports: Sequence[str] = (),
    records: Path | None = None,
) -> list[Path]:
    """Train and test everything that is not done yet, then write table, plot and numbers.

    The dense model is trained once per benchmark and seed; every variant is fine-tuned from it with
    the same number of iterations and the same seed.

    Args:
        benchmarks: Names out of BENCHMARK_TASKS.
        variants: Names out of VARIANTS or of registered methods, with or without a rate
            ('cropr@70'); 'dense' is always among them.
        seeds: Seeds, at least one.
        out: Folder for all output.
        jobs: Runs at the same time; they share the cores.
        samples: Bootstrap samples.
        compile: Whether compiled encoders are timed too.
        rounds: Timed calls of each encoder.
        imports: Modules that register methods of the user's own.
        records: Folder of records of finished runs. Those that are there are taken instead of
            training again, new ones are written; None does neither.

    Returns:
        Files with all numbers of each benchmark, JSON, beside its table and plot.

    Raises:
        SetupError: If a module or a name is unknown, a variant does not fit a benchmark, or data or
            weights are missing, before any training; if a process fails or a dense model does not
            converge, the others are kept. Other models that do not converge are part of the report.
    """
    variants = list(dict.fromkeys(["dense", *variants]))
    unknown = [name for name in benchmarks if name not in BENCHMARK_TASKS]
    if unknown:
        raise SetupError(
            f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARK_TASKS)}"
        )
    try:
        for module in imports:
            importlib.import_module(module)
    except ImportError as error:
        raise SetupError(f"{error}; expected modules that PYTHONPATH finds") from error
    for name in variants:
        find_variant(name)
    for benchmark in benchmarks:
        check_inputs(benchmark)
    out = out.absolute()
    groups = [(benchmark, seed) for benchmark in benchmarks for seed in seeds]
    first = {group: _run(out, *group, PRETRAINING) for group in groups}
    rest = {group: [_run(out, *group, name, *imports) for name in variants] for group in groups}
    texts = {run: _planned(run) for some in rest.values() for run in some}
    for benchmark in benchmarks:
        for root, look in BENCHMARK_TASKS[benchmark].demo_data.items():
            make_demo_data(root, look)

    if records is not None:
        for run, text in texts.items():
            if (why := take_record(run, text, samples, records)) is not None:
                print(f"{run}: record not taken: {why}")
    here = [group for group, some in rest.items() if any(taken_values(run) is None for run in some)]
    _execute({group: first[group] for group in here}, {group: rest[group] for group in here}, jobs)
    files = []
    for benchmark in benchmarks:
        runs = {(r.name, r.seed): r for seed in seeds for r in rest[benchmark, seed]}
        summary = summarize(runs, variants, seeds, samples, jobs, records)
        timed = {name: runs[name, seeds[0]] for name in variants}
        summary["encoder_speed"] = encoder_speed(timed, rounds=rounds, compile=compile)
        record, folder = {benchmark: summary}, out / benchmark
        files.append(folder / "comparison.json")
        files[-1].write_text(json.dumps(record, indent=2) + "\n")
        tables = format_tables(record)
        (folder / "tables.md").write_text(tables + "\n")
        draw(record, folder / "comparison.png")
        draw_curves(runs, variants, seeds, folder / "curves.png")
        print(f"{tables}\n\nnumbers  {files[-1]}\ntable    {folder / 'tables.md'}")
        print(f"plots    {folder / 'comparison.png'}, {folder / 'curves.png'}\n")
    return files


def _run(out: Path, benchmark: str, seed: int, name: str, *imports: str) -> Run:
    return Run(benchmark, seed, name, out / benchmark / f"seed{seed}" / name, imports)


def _planned(run: Run) -> str:
    """Config of a run, as it will be once the dense model is there."""
    benchmark = BENCHMARK_TASKS[run.benchmark]
    dense = run.folder.parent / PRETRAINING
    start = dense / "train" / f"iter_{benchmark.pretrain_iters}.pth"
    return make_config(run, benchmark, start).pretty_text


def _execute(first: Mapping[Group, Run], rest: Mapping[Group, Sequence[Run]], jobs: int) -> None:
    """Train the dense model of each group, then its variants; after a failure others still finish.

    Raises:
        SetupError: If one or more failed.
    """
    failures: list[str] = []
    total = len(first) + sum(map(len, rest.values()))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(width=100)) as progress:
        bar = progress.add_task("runs", total=total)

        def step(run: Run, dense: Future | None) -> bool:
            text = "left out, no dense model to start from"
            try:
                if dense is None or dense.result():
                    start = None if dense is None else first[run.benchmark, run.seed].checkpoint
                    execute(run, make_config(run, BENCHMARK_TASKS[run.benchmark], start), threads)
                    failure = run.failure
                    text = f"did not converge: {failure}" if failure else run.metrics
            except SetupError as error:
                failures.append(str(error))
                text = "FAILED"
            progress.console.print(f"{run}: {text}")
            progress.advance(bar)
            return text != "FAILED"

        given = os.environ.get("OMP_NUM_THREADS")  # by who runs other work beside
        threads = int(given) if given else max(1, (os.cpu_count() or 1) // jobs)
        # In this order no run waits for one that has not been started.
        with ThreadPoolExecutor(jobs) as pool:
            dense = {group: pool.submit(step, run, None) for group, run in first.items()}
            others = [
                pool.submit(step, run, dense[group]) for group, runs in rest.items() for run in runs
            ]
        for done in [*dense.values(), *others]:
            done.result()  # raises what is no SetupError
    if failures:
        raise SetupError("\n".join(failures))
