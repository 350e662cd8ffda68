"""A found schedule against those made by hand at the same time, before and after fine-tuning.

Starts from the dense models of ``benchmarks/pruners.py compare`` and the report of a
``tools/search_schedule.py`` on one of them. *Before*: the dense model pruned without training, by
the method of the search. *After*: fine-tuned as a variant, with equal data and equally long.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cropr_mm.budget.families import FAMILIES
from cropr_mm.datasets import make_demo_data
from cropr_mm.engine.preflight import SetupError
from cropr_mm.text_table import format_table
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.comparison_report import Values, interval_text, score
from experiments.inputs import check_inputs
from experiments.prices import interval_of
from experiments.runs import (
    PRETRAINING,
    Run,
    execute,
    execute_test,
    make_config,
    num_patches,
)
from experiments.scores import TASKS
from experiments.stored_runs import stored_runs
from experiments.study_record import study_record
from experiments.variants import find_variant

FOUND = "found"


def compare_schedules(
    benchmark: str,
    report: Path,
    variant: str,
    seeds: Sequence[int],
    runs: Path,
    out: Path,
    samples: int = 500,
) -> Path:
    """Train and test what is not done yet, then write and print the table.

    Args:
        benchmark: Name out of BENCHMARK_TASKS.
        report: ``report.json`` of a search on the benchmark's dense model.
        variant: Name of the pruned variant that is fine-tuned.
        seeds: Seeds of the dense models, at least one.
        runs: Folder of the dense models.
        out: Folder for all output.
        samples: Bootstrap samples of images.

    Returns:
        File with all numbers, JSON.

    Raises:
        SetupError: If the report is of another image size, there is no dense model, a process fails
            or a model does not converge.
    """
    if not find_variant(variant).pruned:
        raise SetupError(f"expected a pruned variant, got {variant}")
    check_inputs(benchmark)
    task = BENCHMARK_TASKS[benchmark]
    searched = json.loads(report.read_text())
    missing = {"method", "load", "budget", "candidates", "cost"} - set(searched)
    if missing:
        raise SetupError(
            f"expected a report of this version of tools/search_schedule.py, got {report} "
            f"without {', '.join(sorted(missing))}: search again"
        )
    plans = _plans(searched, task.dense, benchmark)
    trained = stored_runs(runs.absolute(), [benchmark], [PRETRAINING], seeds)
    for root, look in task.demo_data.items():
        make_demo_data(root, look)
    folder = out.absolute() / benchmark
    done: dict[tuple[str, str, int], Run] = {}
    for dense in trained:
        done["dense", "", dense.seed] = dense
        for plan, share in plans.items():
            for when, name in (("before", "attn_topk"), ("after", variant)):
                place = folder / f"seed{dense.seed}" / plan / when
                run = done[plan, when, dense.seed] = Run(benchmark, dense.seed, name, place)
                cfg = make_config(run, task, dense.checkpoint)
                cfg.model.backbone.schedule = dict(type="cropr_mm.ExplicitShares", share=share)
                if when == "before":
                    cfg.model.backbone.reducer = searched["method"]
                    execute_test(run, cfg, dense.checkpoint)
                else:
                    execute(run, cfg)
                if run.failure:
                    raise SetupError(f"{run}, {plan} did not converge: {run.failure}")
                print(f"{run}, {plan}, {when}: {run.metrics}", flush=True)
    results = {key: score(run, samples) for key, run in done.items()}
    record = study_record(
        benchmark=benchmark,
        metric=TASKS[task.task].main,
        variant=variant,
        seeds=list(seeds),
        samples=samples,
        budget=searched["budget"],
        load=searched["load"],
        rows=_rows(results, searched, list(plans), seeds),
    )
    file = folder / "schedules.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{format_table(cells(record))}\n\nnumbers  {file}")
    return file


def _plans(searched: Mapping[str, Any], config: str, benchmark: str) -> dict[str, dict[int, float]]:
    """Shares of the tokens by 0-based block, of the found schedule and of those made by hand."""
    tokens = num_patches(Config.fromfile(config).model.backbone)
    total = max(searched["cost"]["model"]["counts"])
    if total != tokens:
        raise SetupError(
            f"expected the search of a dense model of {benchmark}, {tokens} tokens, got one of "
            f"{total}"
        )
    return {
        name: {int(block): count / total for block, count in candidate["plan"].items()}
        for name, candidate in _candidates(searched).items()
    }


def _candidates(searched: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The chosen plan of a search, then those made by hand."""
    found = searched["candidates"]
    hand_made = {name: found[name] for name in FAMILIES if name in found}
    return {FOUND: found[searched["chosen"]], **hand_made}


def _rows(
    results: Mapping[tuple[str, str, int], Values],
    searched: Mapping[str, Any],
    plans: Sequence[str],
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """Milliseconds and metric of each plan, and what the found one has more, in percent."""

    def of(plan: str, when: str) -> list[Values]:
        return [results[plan, when, seed] for seed in seeds]

    rows: list[dict[str, Any]] = []
    candidates = {"dense": searched["candidates"]["dense"], **_candidates(searched)}
    rows.append(dict(plan="dense", ms=candidates["dense"]["ms"], **interval_of(of("dense", ""))))
    for plan in plans:
        row = dict(plan=plan, ms=candidates[plan]["ms"], tokens=candidates[plan]["plan"])
        for when in ("before", "after"):
            row[when] = interval_of(of(plan, when))
            if plan != FOUND:
                row[f"found minus it, {when}"] = interval_of(of(FOUND, when), of(plan, when))
        rows.append(row)
    return rows


def cells(record: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows: time, metric without training and after it, and what 'found' has more."""
    metric = record["metric"]
    rows = [["schedule", "ms", f"{metric} before", "found - it", f"{metric} after", "found - it"]]
    dense, *others = record["rows"]
    rows.append(["dense", f"{dense['ms']:.0f}", f"{dense['value']:.1f}", "", "", ""])
    for row in others:
        texts = [row["plan"], f"{row['ms']:.0f}"]
        for when in ("before", "after"):
            texts.append(f"{row[when]['value']:.1f}")
            texts.append(interval_text(row.get(f"found minus it, {when}"), signed=True))
        rows.append(texts)
    return rows
