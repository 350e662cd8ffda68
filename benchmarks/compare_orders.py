"""Compare layouts of survivors in windows, and their positions, by features before fine-tuning.

Needs the dense models that benchmarks/compare_pruners.py trains.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from cropr_mm.comparison.agreement import ORDERS, feature_agreement
from cropr_mm.comparison.runs import PRETRAINING, Run
from cropr_mm.comparison.variants import PACKS
from cropr_mm.runner import short_errors


def main() -> None:
    """Parse arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("work_dirs/compare/det"),
        help="folder of compare_pruners.py; relative to the repository (default: %(default)s)",
    )
    parser.add_argument(
        "--packs", nargs="+", choices=PACKS, default=list(PACKS), help="default: all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    with short_errors():
        runs = [
            Run(pack, seed, PRETRAINING, args.runs / pack / f"seed{seed}" / PRETRAINING)
            for pack in args.packs
            for seed in args.seeds
        ]
        for run in runs:
            run.check()
        record: dict[str, dict[str, list[list[float]]]] = {}
        for run in runs:
            values = record.setdefault(run.pack, {name: [] for name in ORDERS})
            for name, images in feature_agreement(run, PACKS[run.pack], ORDERS).items():
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
