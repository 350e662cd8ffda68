"""Compare pruners on small data: each is fine-tuned from the same dense model, equally long."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.console import short_errors
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.compare_lora import WAYS as TRAININGS
from experiments.compare_lora import compare_lora
from experiments.compare_orders import compare_orders
from experiments.compare_padding import compare_padding
from experiments.compare_room import compare_room
from experiments.compare_schedules import compare_schedules
from experiments.compare_seen import compare_seen
from experiments.compare_sizes import compare_sizes
from experiments.comparison import compare
from experiments.prices import DEFAULT_WAYS, WAYS, prices
from experiments.variants import DEFAULT_VARIANTS, VARIANTS

RUNS = Path("work_dirs/compare")
UNTRAINED = ("oracle", "attn_topk", "variance", "random")
PRUNED = [name for name in DEFAULT_VARIANTS if VARIANTS[name].pruned]
Parser = argparse.ArgumentParser


def main() -> None:
    """Parse arguments and run one comparison."""
    parser = Parser(description=__doc__, epilog="Paths are relative to the repository.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {
        "compare": "train and test pruners; again, it goes on where it stopped",
        "orders": "layouts and positions of survivors in windows, by features before fine-tuning",
        "room": "metrics of the dense model when it is pruned in the test alone",
        "padding": "how much padding trained models keep, with and without dropping it first",
        "seen": "share of each class's pixels that trained segmenters see after each step",
        "prices": "a trained model pruned without training, by its routers alone, by fine-tuning, "
        "and at all rates by one elastic training",
        "schedules": "a schedule that tools/search_schedule.py found against those made by hand, "
        "before and after fine-tuning",
        "lora": "a pruned model trained whole from a pretrained encoder, by adapters, with the "
        "encoder frozen, and from random weights",
        "sizes": "metrics of trained models on smaller images; the share of pruned patches stays",
    }
    parts = {name: commands.add_parser(name, help=t, description=t) for name, t in texts.items()}
    add_compare(parts["compare"])
    for name in ("orders", "room", "padding", "seen", "sizes"):
        add_trained(parts[name], name)
    add_prices(parts["prices"])
    add_schedules(parts["schedules"])
    add_lora(parts["lora"])
    add_traceback_option(parser)
    args = parser.parse_args()
    options = vars(args)
    command, traceback = options.pop("command"), options.pop("traceback")
    if command == "seen" and "cropr" not in args.variants:
        parser.error(f"expected 'cropr' among --variants, got {', '.join(args.variants)}")
    if len(set(args.seeds)) < len(args.seeds):
        parser.error(f"expected each of --seeds once, got {args.seeds}")
    if command == "compare":
        task = options.pop("task")
        of_others = set(args.benchmarks or ()) & (set(BENCHMARK_TASKS) - set(of_tasks(task)))
        if of_others:
            parser.error(f"expected benchmarks of --task {task}, got {', '.join(of_others)}")
        options["benchmarks"] = args.benchmarks or of_tasks(task)
        options["out"] = args.out or RUNS / task
    elif "runs" in options and args.runs is None:
        benchmark = options.get("benchmark") or args.benchmarks[0]
        options["runs"] = RUNS / BENCHMARK_TASKS[benchmark].task
    runs: dict[str, Callable[..., object]] = dict(
        compare=compare,
        lora=compare_lora,
        orders=compare_orders,
        room=compare_room,
        padding=compare_padding,
        prices=prices,
        schedules=compare_schedules,
        seen=compare_seen,
        sizes=compare_sizes,
    )
    os.chdir(Path(__file__).resolve().parents[1])
    with short_errors(traceback=traceback):
        runs[command](**options)


def add_compare(parser: Parser) -> None:
    """Add what to train and how."""
    tasks = sorted({benchmark.task for benchmark in BENCHMARK_TASKS.values()})
    parser.add_argument("--task", choices=tasks, required=True)
    known = "; ".join(f"{task}: {', '.join(of_tasks(task))}" for task in tasks)
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        metavar="NAME",
        help=f"default: all of the task ({known}). Those of photos need CROPR_DATA_ROOT, those "
        "with dinov2s CROPR_WEIGHTS_ROOT too, and hours on a CPU",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=DEFAULT_VARIANTS,
        metavar="NAME",
        help=f"default: {', '.join(DEFAULT_VARIANTS)}; known: {', '.join(VARIANTS)}, and any "
        "registered reduction method by its class name. cropr@70 prunes 70 percent of the tokens, "
        "cropr@70b2 all at once after block 2",
    )
    add_seeds(parser)
    parser.add_argument("--out", type=Path, help=f"folder; default: {RUNS}/<task>")
    parser.add_argument(
        "--jobs",
        type=number(1),
        default=os.cpu_count() or 1,
        help="runs at once (default: the cores, %(default)s)",
    )
    parser.add_argument(
        "--samples", type=number(2), default=500, help="bootstrap samples (default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=number(1), default=30, help="timed calls of each encoder (%(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="time compiled encoders too")
    parser.add_argument(
        "--records",
        type=Path,
        metavar="DIR",
        help="take finished runs from here instead of training them again, and write new ones",
    )
    parser.add_argument(
        "--imports",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules in PYTHONPATH that register methods of your own",
    )


def add_prices(parser: Parser) -> None:
    """Add the ways to a pruned model, and at which rates."""
    parser.add_argument("--benchmark", choices=BENCHMARK_TASKS, default="digits_seg")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=WAYS,
        default=DEFAULT_WAYS,
        metavar="WAY",
        help=f"out of {'; '.join(WAYS)} (default: those without the word query)",
    )
    parser.add_argument(
        "--rates", nargs="+", type=number(1, 99), default=[50, 87], metavar="PERCENT"
    )
    add_seeds(parser)
    add_runs(parser)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/prices"), help="folder")
    parser.add_argument("--samples", type=number(2), default=500, help="bootstrap samples")


def add_schedules(parser: Parser) -> None:
    """Add what was searched, and what is fine-tuned."""
    parser.add_argument("--benchmark", choices=BENCHMARK_TASKS, required=True)
    parser.add_argument(
        "--report", type=Path, required=True, help="report.json of tools/search_schedule.py"
    )
    parser.add_argument("--variant", default="cropr", help="default: %(default)s")
    add_seeds(parser)
    add_runs(parser)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/schedules"), help="folder")
    parser.add_argument("--samples", type=number(2), default=500, help="bootstrap samples")


def add_lora(parser: Parser) -> None:
    """Add what trains, and how long."""
    pretrained = [name for name in BENCHMARK_TASKS if name.endswith("_dinov2s")]
    parser.add_argument("--benchmark", choices=pretrained, default="camvid_dinov2s")
    parser.add_argument("--ways", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    parser.add_argument("--iterations", type=number(1), help="default: those of the dense model")
    add_seeds(parser)
    parser.add_argument("--out", type=Path, default=Path("work_dirs/lora"), help="folder")
    parser.add_argument("--samples", type=number(2), default=500, help="bootstrap samples")


def add_trained(parser: Parser, command: str) -> None:
    """Add which trained models to look at."""
    add_runs(parser)
    add_seeds(parser)
    if command == "orders":
        parser.add_argument(
            "--benchmarks", nargs="+", choices=of_tasks("det"), default=of_tasks("det")
        )
        return
    known, default = {
        "room": (list(BENCHMARK_TASKS), None),
        "padding": (list(BENCHMARK_TASKS), "person"),
        "seen": (of_tasks("seg"), "digits_seg"),
        "sizes": (of_tasks("seg", "cls", "multilabel"), None),
    }[command]
    parser.add_argument("--benchmark", choices=known, default=default, required=default is None)
    variants = {"sizes": ["cropr", "variance", "random"], "room": UNTRAINED}
    parser.add_argument("--variants", nargs="+", default=variants.get(command, PRUNED))
    if command == "sizes":
        parser.add_argument(
            "--scales", nargs="+", type=float, required=True, help="of the training's image sides"
        )


def add_runs(parser: Parser) -> None:
    """Add where the command compare wrote."""
    parser.add_argument(
        "--runs",
        type=Path,
        help=f"folder that the command compare wrote; default: {RUNS}/<task of the benchmark>",
    )


def add_seeds(parser: Parser) -> None:
    """Add the seeds."""
    parser.add_argument(
        "--seeds", nargs="+", type=number(0), default=[0, 1, 2], help="default: 0 1 2"
    )


def of_tasks(*tasks: str) -> Sequence[str]:
    """Names of the benchmarks of some tasks."""
    return [name for name, benchmark in BENCHMARK_TASKS.items() if benchmark.task in tasks]


def number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Reader of whole numbers from ``low`` to ``high``, both included; None for no end."""

    def read(text: str) -> int:
        if int(text) < low or (high is not None and int(text) > high):
            raise ValueError
        return int(text)

    # argparse says "invalid NAME value".
    read.__name__ = f"number >= {low}" if high is None else f"number from {low} to {high}"
    return read


if __name__ == "__main__":
    main()
