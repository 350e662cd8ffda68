"""What dropping padding first does to trained models: padding among survivors, and metrics.

Needs the models that ``benchmarks/pruners.py compare`` trains.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.padding_scores import padding_kept
from experiments.stored_runs import stored_runs


def compare_padding(
    runs: Path, benchmark: str, variants: Sequence[str], seeds: Sequence[int]
) -> None:
    """Print a table and write ``padding.json``.

    Args:
        runs: Folder of the trained models; the file goes there.
        benchmark: Name of a benchmark task.
        variants: Names of pruned variants.
        seeds: Seeds of the trained models.

    Raises:
        SetupError: If a model was never trained, or merges tokens.
    """
    record: dict[str, dict[str, list[dict[str, float]]]] = {}
    for run in stored_runs(runs, [benchmark], variants, seeds):
        of_variant = record.setdefault(run.name, {"False": [], "True": []})
        for pad_first in (False, True):
            of_variant[str(pad_first)].append(padding_kept(run, pad_first))
    print(f"\nPercent: mean of seeds, in brackets each seed.\n\n{padding_table(record)}")
    file = runs / "padding.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def padding_table(record: dict[str, dict[str, list[dict[str, float]]]]) -> str:
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
