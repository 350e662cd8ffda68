"""Time encoders or whole models side by side, against the measured floor of their products.

Images are random, and so are weights without --checkpoint. The first row is what the others are
compared with.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.config import load_config
from cropr_mm.engine.console import check_outputs, short_errors, show_rounds
from cropr_mm.export.forms import FORMATS as EXPORTED
from cropr_mm.export.forms import ExportedForm, differences, exported_forms
from cropr_mm.profiling.baselines import BASELINES
from cropr_mm.profiling.candidates import (
    make_entries,
    native_size,
    random_batch,
    random_images,
    with_image_size,
)
from cropr_mm.profiling.compare import Entry, SideBySide, time_side_by_side
from cropr_mm.profiling.environment import git_commit, machine_name, settings_hash, versions
from cropr_mm.profiling.op_profile import operator_shares
from cropr_mm.profiling.out_of_memory import attempt
from cropr_mm.profiling.run_mode import FREEZE_HELP, Mode, freeze_weights
from cropr_mm.profiling.speed_plots import draw_groups

FORM_COLUMNS = ("over the first in its form", "from eager", "MB on disk")


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+", help="configs with a cropr_mm.CroprViT backbone")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1], metavar="B")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16", "amp"), default="fp32")
    parser.add_argument("--part", choices=("encoder", "model"), default="encoder")
    parser.add_argument(
        "--img-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image size in pixels (default: img_size of the first config's backbone)",
    )
    parser.add_argument("--sdpa", choices=("auto", "flash", "math"), default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--baselines",
        nargs="+",
        choices=list(BASELINES),
        default=[],
        metavar="NAME",
        help="made of the first config: dense (ours without pruning), random (same schedule), "
        "timm (its dense model), published (the published step on timm's blocks); the last two "
        "need an encoder of timm's, by its name",
    )
    parser.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="ROW",
        help="also give speed-ups over these rows, such as 'published' or 'dense, compiled'",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("eager", "compile", *EXPORTED),
        default=["eager"],
        metavar="FORM",
        help="forms of each encoder: eager, compile (torch.compile), and exported to onnx (ONNX "
        "Runtime), openvino or aoti (AOTInductor), on the CPU in fp32; default: eager",
    )
    parser.add_argument("--compile", action="store_true", help="--formats eager compile")
    parser.add_argument("--freeze", action="store_true", help=FREEZE_HELP)
    parser.add_argument(
        "--profile", action="store_true", help="then say which operators each row's time goes to"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights of the one config's model, as for tools/test.py (default: random ones, whose "
        "detections are as random in number, and so is the time that post-processing takes)",
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all after each batch size")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw images per second (PNG)")
    add_traceback_option(parser)
    args = parser.parse_args()
    if args.compile and "compile" not in args.formats:
        args.formats.append("compile")
    args.compile = "compile" in args.formats
    return args


def main() -> None:
    """Time, print and write, batch size by batch size."""
    args = parse_args()
    with ExitStack() as stack:
        stack.enter_context(short_errors(ValueError, traceback=args.traceback))
        check_outputs(json=args.json, plot=args.plot)
        if args.rounds < 1:  # before anything is compiled
            raise ValueError(f"expected rounds >= 1, got {args.rounds}")
        if min(args.batch_sizes) < 1:
            raise ValueError(f"expected batch sizes >= 1, got {args.batch_sizes}")
        if "eager" not in args.formats:
            raise ValueError(
                "--formats expects eager, which the others are compared with, among its forms, got "
                + " ".join(args.formats)
            )
        freeze_weights(args.freeze, args.compile)
        mode = Mode(args.dtype, args.sdpa, args.device)
        configs = {Path(path).stem: load_config(path) for path in args.configs}
        if len(configs) < len(args.configs):
            raise ValueError(f"expected configs of different names, got {args.configs}")
        first = next(iter(configs.values()))
        size = tuple(args.img_size or native_size(first))
        configs = {name: with_image_size(cfg, size) for name, cfg in configs.items()}
        exported = [name for name in args.formats if name in EXPORTED]
        folder = stack.enter_context(TemporaryDirectory())
        forms = exported_forms(exported, args.dtype, args.part, args.device, Path(folder))
        torch.manual_seed(0)
        entries = make_entries(
            configs,
            mode,
            part=args.part,
            baselines=args.baselines,
            compile=args.compile,
            forms=forms,
            checkpoint=args.checkpoint,
        )
        unknown = [name for name in args.against if name not in entries]
        if unknown:
            raise ValueError(f"--against expects rows ({'; '.join(entries)}), got {unknown[0]}")
        record = about(args, mode, size, configs)
        print(
            f"{args.part}s side by side on {record['machine']}: {mode}, "
            f"{torch.get_num_threads()} CPU threads, images of {size[0]}x{size[1]} pixels, "
            f"{args.rounds} rounds{', weights frozen in compiled forms' if args.freeze else ''}"
        )
        results = record["batches"] = {}
        for batch_size in args.batch_sizes:
            make_batch = (
                partial(random_images, batch_size, size, mode)
                if args.part == "encoder"
                else partial(random_batch, first, batch_size, size)
            )
            title = f"batch {batch_size}: {len(entries)} models in turn"
            with show_rounds(title, args.rounds) as on_round:
                found, reason = attempt(
                    partial(run_batch, entries, make_batch, size, args, on_round)
                )
            result, text = found or ({"error": reason, "idle": False}, f"\ndid not run: {reason}")
            results[str(batch_size)] = result
            print(f"\nbatch {batch_size}{text}", flush=True)
            if args.json:
                args.json.write_text(json.dumps(record, indent=2) + "\n")
        if args.json:
            print(f"\nwritten to {args.json}")
        if args.plot:
            ran = {f"batch {b}": result for b, result in results.items() if "error" not in result}
            draw_groups(ran, args.plot)
            print(f"drawn to {args.plot}")


def about(
    args: argparse.Namespace, mode: Mode, size: tuple[int, ...], configs: Mapping[str, Config]
) -> dict[str, Any]:
    """What is timed, and where."""
    settings = {
        "dtype": mode.dtype,
        "sdpa": mode.sdpa,
        "frozen": args.freeze,
        "part": args.part,
        "img_size": list(size),
    }
    options = {
        "formats": args.formats,
        "baselines": args.baselines,
        "checkpoint": args.checkpoint,
        "rounds": args.rounds,
        "device": mode.device,
        "models": {name: cfg.model.to_dict() for name, cfg in configs.items()},
    }
    return {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        "machine": machine_name(mode.device),
        "versions": versions(),
        "commit": git_commit(),
        "settings_hash": settings_hash(settings | options),
        **settings,
        "checkpoint": args.checkpoint,
    }


def run_batch(
    entries: Mapping[str, Entry],
    make_batch: Callable[[], Any],
    size: tuple[int, ...],
    args: argparse.Namespace,
    on_round: Callable[[int], None],
) -> tuple[dict[str, Any], str]:
    """Time all entries on one batch, which may itself be too large for the machine.

    Returns:
        Record for JSON, and text behind the title.

    Raises:
        ValueError: If encoders do not see images of that height and width.
    """
    batch = make_batch()
    seen = tuple(next(iter(entries.values())).images(batch).shape[-2:])
    if seen != size:
        raise ValueError(
            f"expected encoders to see images of {size[0]}x{size[1]} pixels, but the config's "
            f"data_preprocessor makes them {seen[0]}x{seen[1]}: change that too"
        )
    result = time_side_by_side(entries, batch, rounds=args.rounds, on_round=on_round)
    ran = {name: entries[name] for name in result.latencies.times}
    bases = [name for name in args.against if name in ran]
    record = result.as_dict(bases)
    columns = {f"over {base}": over(result, base) for base in bases}
    found = {name: found_instances(entry.run(batch)) for name, entry in ran.items()}
    if all(found.values()):
        for name, counts in found.items():
            record["functions"][name]["instances"] = counts
        columns["instances/image"] = {n: f"{sum(c) / len(c):.1f}" for n, c in found.items()}
    if len(args.formats) > 1 and args.part == "encoder":
        add_forms(ran, batch, result, record["functions"], columns)
    shares = record["operators"] = profiles(ran, batch) if args.profile else {}
    lines = [f"{name}: {largest(operators)}" for name, operators in shares.items()]
    return record, "\n".join([f"{result.warning}\n{result.table(columns)}", *lines])


def add_forms(
    entries: Mapping[str, Entry],
    batch: Any,
    result: SideBySide,
    functions: dict[str, Any],
    columns: dict[str, dict[str, str]],
) -> None:
    """What there is to say of encoders in several forms: added to the record and the table.

    Speed over the first encoder in the same form, difference from the eager form, size on disk.
    """
    eager = {name: name.partition(", ")[0] for name in entries}
    first = next(iter(eager.values()))
    apart = differences(entries, batch, eager)
    same, gap, size = (columns.setdefault(title, {}) for title in FORM_COLUMNS)
    for name, function in functions.items():
        base = first + name.removeprefix(eager[name])
        ratio = result.latencies.speedup(name, base) if base in entries else None
        call = entries[name].call
        on_disk = call.bytes_on_disk(batch) if isinstance(call, ExportedForm) else None
        function["speedup_in_form"] = ratio and ratio._asdict()
        function["difference_from_eager"] = apart[name]
        function["bytes_on_disk"] = on_disk
        same[name] = ratio.text(len(result.latencies.times[name])) if ratio else "-"
        gap[name] = f"{apart[name]:.1e}"
        size[name] = f"{on_disk / 1e6:.1f}" if on_disk else "-"


def found_instances(output: Any) -> list[int]:
    """How many instances a detector has found in each image; empty for other models."""
    samples = output if isinstance(output, list) else []
    return [len(sample.pred_instances) for sample in samples if "pred_instances" in sample]


def profiles(entries: Mapping[str, Entry], batch: Any) -> dict[str, dict[str, float]]:
    """Shares of operators by row."""
    return {
        name: operator_shares(partial(entry.run, batch), entry.mode.device)
        for name, entry in entries.items()
    }


def largest(shares: Mapping[str, float], least: float = 0.01) -> str:
    """Operators of at least that share, as text."""
    return ", ".join(f"{name} {x:.0%}" for name, x in shares.items() if x >= least)


def over(result: SideBySide, base: str) -> dict[str, str]:
    """Speed-ups over one row as text; to a thousandth, for some are near one."""
    return {
        name: ratio.text(len(result.latencies.times[name]), digits=3)
        for name, ratio in result.against(base).items()
    }


if __name__ == "__main__":
    main()
