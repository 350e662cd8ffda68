"""Compare layouts of survivors in windows, and their positions, by features before fine-tuning.

Needs the dense models that benchmarks/compare_pruners.py trains.
"""

import json
import os
from pathlib import Path

import numpy as np

from cropr_mm.engine.console import short_errors
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.feature_agreement import ORDERS, feature_agreement
from experiments.runs import PRETRAINING
from experiments.stored_runs import run_arguments, stored_runs


def main() -> None:
    """Parse arguments and compare."""
    parser = run_arguments(__doc__)
    packs = [name for name, pack in BENCHMARK_TASKS.items() if pack.task == "det"]
    parser.add_argument("--packs", nargs="+", choices=packs, default=packs, help="default: all")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    record: dict[str, dict[str, list[list[float]]]] = {}
    with short_errors():
        for run in stored_runs(args.runs, args.packs, [PRETRAINING], args.seeds):
            values = record.setdefault(run.pack, {name: [] for name in ORDERS})
            for name, images in feature_agreement(run, BENCHMARK_TASKS[run.pack], ORDERS).items():
                values[name].append(images.tolist())
    print("Distance to the dense features at survivors, as a share of their variance: mean of")
    print("images and seeds, in brackets of each seed. Difference: to the first row.\n")
    for pack, values in record.items():
        print(format_table(pack, values))
    file = args.runs / "orders.json"
    file.write_text(json.dumps(record) + "\n")
    print(f"numbers  {file}")


def format_table(pack: str, values: dict[str, list[list[float]]]) -> str:
    """Markdown table of one pack."""
    lines = [f"**{pack}**\n", "| order, rope | distance | difference |", "| --- | ---: | ---: |"]
    first = np.array(next(iter(values.values())))  # (seeds, images)
    for name, of_seeds in values.items():
        found = np.array(of_seeds)
        seeds = ", ".join(f"{value:.3f}" for value in found.mean(axis=1))
        gap = (found - first).mean(axis=1)
        gaps = ", ".join(f"{value:+.4f}" for value in gap)
        lines.append(f"| {name} | {found.mean():.3f} ({seeds}) | {gap.mean():+.4f} ({gaps}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
