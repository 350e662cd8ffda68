"""Compare pruners on small data: each is fine-tuned from the same dense model, equally long.

The same command goes on after an interruption and repeats nothing that is done.
"""

import argparse
import os
from pathlib import Path

from cropr_mm.engine.console import short_errors
from experiments import compare
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.variants import DEFAULT_VARIANTS, VARIANTS

TASKS = sorted({pack.task for pack in BENCHMARK_TASKS.values()})


def positive(text: str) -> int:
    """Number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def seed(text: str) -> int:
    """Number of at least 0."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def main() -> None:
    """Parse arguments and compare; paths are those of the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--packs", nargs="+", help="default: all packs of the task")
    parser.add_argument(
        "--variants",
        nargs="+",
        default=DEFAULT_VARIANTS,
        help=f"default: {', '.join(DEFAULT_VARIANTS)}; known: {', '.join(VARIANTS)}, and any "
        "registered reduction method by its class name",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=seed,
        default=[0, 1, 2],
        help="without repetition; default: 0 1 2",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="relative to the repository; default: work_dirs/compare/<task>",
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=os.cpu_count() or 1,
        help="runs at once (default: the cores, %(default)s)",
    )
    parser.add_argument(
        "--samples", type=positive, default=500, help="bootstrap samples (default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="time compiled encoders too")
    parser.add_argument(
        "--imports",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules in PYTHONPATH that register methods of your own",
    )
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    packs = args.packs or [name for name, pack in BENCHMARK_TASKS.items() if pack.task == args.task]
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"expected each of --seeds once, got {args.seeds}")
    out = args.out or Path("work_dirs/compare", args.task)
    with short_errors():
        compare(
            packs,
            args.variants,
            args.seeds,
            out,
            args.jobs,
            args.samples,
            args.compile,
            args.imports,
        )


if __name__ == "__main__":
    main()
