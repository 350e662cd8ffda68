"""Metrics of trained models on smaller images, and what pruning costs there.

Needs the models that benchmarks/compare_pruners.py trains. The share of pruned patches stays.
"""

import json
import os
from pathlib import Path

import numpy as np

from cropr_mm.engine.console import short_errors
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.bootstrap import draw_images, paired_interval
from experiments.image_sizes import scores_at
from experiments.scores import TASKS
from experiments.stored_runs import failures, run_arguments, stored_runs

SAMPLES = 500


def main() -> None:
    """Parse arguments and compare."""
    parser = run_arguments(__doc__)
    parser.set_defaults(runs=Path("work_dirs/compare/seg"))
    packs = [name for name, pack in BENCHMARK_TASKS.items() if pack.task != "det"]
    parser.add_argument("--pack", choices=packs, required=True, help="of the task of --runs")
    parser.add_argument("--variants", nargs="+", default=["cropr", "variance", "random"])
    parser.add_argument("--scales", nargs="+", type=float, required=True)
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    metric = TASKS[BENCHMARK_TASKS[args.pack].task].main
    names = ["dense", *args.variants]
    found: dict[tuple[str, float], list[tuple[float, np.ndarray]]] = {}
    with short_errors():
        runs = stored_runs(args.runs, [args.pack], names, args.seeds)
        failed = failures(runs)
        names = [name for name in names if name not in failed]
        for run in runs:
            if run.name in failed:
                continue
            for scale in args.scales:
                scores = scores_at(run, scale)
                whole = scores(np.arange(scores.num_images))[metric]
                drawn = [scores(i)[metric] for i in draw_images(scores.num_images, SAMPLES)]
                found.setdefault((run.name, scale), []).append((whole, np.array(drawn)))
    record = {"pack": args.pack, "metric": metric, "seeds": args.seeds, "samples": SAMPLES}
    record["scales"] = {
        str(scale): {name: summarize(found, name, scale) for name in names} for scale in args.scales
    }
    record["failed"] = failed
    print(f"\n{metric}, mean of {len(args.seeds)} seeds, percent\n\n{format_table(record)}")
    for name, why in failed.items():
        print(f"{name} did not converge ({why})")
    file = args.runs / args.pack / "sizes.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def summarize(
    found: dict[tuple[str, float], list[tuple[float, np.ndarray]]], name: str, scale: float
) -> dict:
    """Values by seed, and the interval of the paired difference to the dense model."""
    values, drawn = zip(*found[name, scale], strict=True)
    dense, dense_drawn = zip(*found["dense", scale], strict=True)
    difference = paired_interval(
        np.array(values) - np.array(dense), np.stack(drawn) - np.stack(dense_drawn)
    )
    return {"per_seed": list(values), "minus_dense": difference._asdict()}


def format_table(record: dict) -> str:
    """Markdown table: a row for each size."""
    names = list(next(iter(record["scales"].values())))
    head = ["scale", *names, *(f"{name} - dense" for name in names[1:])]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for scale, entries in record["scales"].items():
        means = [f"{np.mean(entries[name]['per_seed']):.1f}" for name in names]
        gaps = [entries[name]["minus_dense"] for name in names[1:]]
        texts = [f"{g['value']:+.1f} ({g['low']:+.1f} to {g['high']:+.1f})" for g in gaps]
        rows.append([scale, *means, *texts])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
