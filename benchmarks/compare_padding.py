"""What dropping padding first does to trained models: padding among survivors, and metrics.

Needs the models that benchmarks/compare_pruners.py trains.
"""

import json
import os
from pathlib import Path

import numpy as np

from cropr_mm.engine.console import short_errors
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.padding import padding_kept
from experiments.stored_runs import run_arguments, stored_runs
from experiments.variants import DEFAULT_VARIANTS, VARIANTS


def main() -> None:
    """Parse arguments and compare."""
    parser = run_arguments(__doc__)
    parser.add_argument("--pack", choices=BENCHMARK_TASKS, default="person")
    pruned = [name for name in DEFAULT_VARIANTS if VARIANTS[name].pruned]
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=pruned)
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    record: dict[str, dict[str, list[dict[str, float]]]] = {}
    with short_errors():
        for run in stored_runs(args.runs, [args.pack], args.variants, args.seeds):
            of_variant = record.setdefault(run.name, {"False": [], "True": []})
            for pad_first in (False, True):
                of_variant[str(pad_first)].append(padding_kept(run, pad_first))
    print(f"\nPercent: mean of seeds, in brackets each seed.\n\n{format_table(record)}")
    file = args.runs / "padding.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def format_table(record: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """Markdown table: a row for each variant with and without the option."""
    names = list(next(iter(record.values()))["False"][0])
    head = ["pruner", "pad_first", "padding among survivors", *names[1:]]
    rows = [head, ["---", "---"] + ["---:"] * len(names)]
    for variant, settings in record.items():
        for pad_first, seeds in settings.items():
            columns = [np.array([seed[name] for seed in seeds]) for name in names]
            rows.append([variant, pad_first, *[_text(column) for column in columns]])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _text(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    main()
