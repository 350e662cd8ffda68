"""What the choice of tokens can change at all: the dense model, pruned without fine-tuning it.

Needs the dense models that ``benchmarks/pruners.py compare`` trains. All choices are made in the
same weights, an oracle above and random tokens as the yardstick. Cropr's routers learn first, in
the frozen model, for as long as a variant is fine-tuned.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cropr_mm.engine.config import load_config
from cropr_mm.engine.evaluate import evaluate
from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.bootstrap import draw_images, paired_interval
from experiments.comparison_report import interval_text
from experiments.runs import PRETRAINING, Run, execute, make_config
from experiments.scores import TASKS, Scores
from experiments.stored_runs import stored_runs
from experiments.variants import find_variant

SAMPLES = 500


def compare_room(runs: Path, benchmark: str, variants: Sequence[str], seeds: Sequence[int]) -> None:
    """Print a table and write ``room.json`` beside the models of the benchmark.

    Args:
        runs: Folder of the trained models.
        benchmark: Name of a benchmark task.
        variants: Names of pruned variants, with or without a rate ('oracle@70').
        seeds: Seeds of the dense models.

    Raises:
        SetupError: If a model was never trained, or a variant has parameters that learn from the
            head.
    """
    trained = stored_runs(runs.absolute(), [benchmark], [PRETRAINING], seeds)
    metric = TASKS[BENCHMARK_TASKS[benchmark].task].main
    found: dict[str, list[tuple[float, np.ndarray]]] = {}
    classes: dict[str, list[dict[str, float]]] = {}
    for name in ("dense", *variants):
        for dense in trained:
            scores = scores_of(dense, name)
            images = draw_images(scores.num_images, SAMPLES, films=scores.films)
            drawn = np.array([scores(i)[metric] for i in images])
            whole = scores(np.arange(scores.num_images))[metric]
            found.setdefault(name, []).append((whole, drawn))
            classes.setdefault(name, []).append(scores.by_class())
            print(f"{benchmark}, seed {dense.seed}, {name}: {metric} {whole:.1f}", flush=True)
    record: dict[str, Any] = {"metric": metric, "seeds": list(seeds), "samples": SAMPLES}
    record["variants"] = {name: _entry(found, name, classes[name]) for name in found}
    print(f"\n{metric} without fine-tuning, mean of {len(seeds)} seeds, percent\n")
    print(room_table(record))
    file = runs / benchmark / "room.json"
    file.write_text(json.dumps({benchmark: record}, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def scores_of(dense: Run, name: str) -> Scores:
    """Test a dense model with the encoder of a variant, whose routers are trained if it has any."""
    benchmark = BENCHMARK_TASKS[dense.benchmark]
    task = TASKS[benchmark.task]
    if not (name == "dense" or find_variant(name).untrained):
        run = Run(dense.benchmark, dense.seed, name, dense.folder.parent / "routers" / name)
        cfg = make_config(run, benchmark, dense.checkpoint)
        cfg.custom_hooks = [
            h for h in cfg.custom_hooks if h["type"] != "cropr_mm.CroprCurriculumHook"
        ]
        execute(run, cfg, trainable="routers")
        if run.failure:
            raise SetupError(f"{run}: did not converge: {run.failure}")
        return task.read(cfg, run.folder)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(dense.benchmark, dense.seed, name, Path(folder))
        make_config(run, benchmark, dense.checkpoint).dump(run.config)
        cfg = load_config(str(run.config), folder)
        evaluate(cfg, str(dense.checkpoint))
        return task.read(cfg, run.folder)


def room_table(record: dict[str, Any]) -> str:
    """Markdown; a row for each choice."""
    metric = record["metric"]
    rows = [["choice", metric, f"{metric} - dense", "choice - random"]]
    rows.append(["---"] + ["---:"] * 3)
    for name, entry in record["variants"].items():
        differences = [
            interval_text(entry.get(key), signed=True) for key in ("minus_dense", "minus_random")
        ]
        rows.append([name, f"{np.mean(entry['per_seed']):.1f}", *differences])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _entry(found: dict, name: str, classes: list[dict[str, float]]) -> dict[str, Any]:
    """Values by seed, with the intervals of paired differences."""
    values, drawn = (np.stack(x) for x in zip(*found[name], strict=True))
    entry: dict[str, Any] = {"per_seed": values.tolist(), "by_class_per_seed": classes}
    _, at, rate = name.partition("@")
    for other, key in (("dense", "minus_dense"), (f"random{at}{rate}", "minus_random")):
        if other in found and other != name:
            theirs, theirs_drawn = (np.stack(x) for x in zip(*found[other], strict=True))
            entry[key] = paired_interval(values - theirs, drawn - theirs_drawn)._asdict()
    return entry
