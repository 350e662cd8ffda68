"""Compare layouts of survivors in windows, and their positions, by features before fine-tuning.

Needs the dense models that ``benchmarks/pruners.py compare`` trains.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.feature_agreement import ORDERS, feature_agreement
from experiments.runs import PRETRAINING
from experiments.stored_runs import stored_runs


def compare_orders(runs: Path, benchmarks: Sequence[str], seeds: Sequence[int]) -> None:
    """Print a table of each benchmark and write ``orders.json``.

    Args:
        runs: Folder of the trained models; the file goes there.
        benchmarks: Names of benchmark tasks in detection.
        seeds: Seeds of the trained models.

    Raises:
        SetupError: If a model was never trained.
    """
    record: dict[str, dict[str, list[list[float]]]] = {}
    for run in stored_runs(runs, benchmarks, [PRETRAINING], seeds):
        values = record.setdefault(run.benchmark, {name: [] for name in ORDERS})
        for name, images in feature_agreement(run, BENCHMARK_TASKS[run.benchmark], ORDERS).items():
            values[name].append(images.tolist())
    print("Distance to the dense features at survivors, as a share of their variance: mean of")
    print("images and seeds, in brackets of each seed. Difference: to the first row.\n")
    for benchmark, values in record.items():
        print(orders_table(benchmark, values))
    file = runs / "orders.json"
    file.write_text(json.dumps(record) + "\n")
    print(f"numbers  {file}")


def orders_table(benchmark: str, values: dict[str, list[list[float]]]) -> str:
    """Markdown table of one benchmark."""
    lines = [
        f"**{benchmark}**\n",
        "| order, rope | distance | difference |",
        "| --- | ---: | ---: |",
    ]
    first = np.array(next(iter(values.values())))  # (seeds, images)
    for name, of_seeds in values.items():
        found = np.array(of_seeds)
        seeds = ", ".join(f"{value:.3f}" for value in found.mean(axis=1))
        gap = (found - first).mean(axis=1)
        gaps = ", ".join(f"{value:+.4f}" for value in gap)
        lines.append(f"| {name} | {found.mean():.3f} ({seeds}) | {gap.mean():+.4f} ({gaps}) |")
    return "\n".join(lines) + "\n"
