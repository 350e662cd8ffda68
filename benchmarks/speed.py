"""Time, multiply-adds and memory of pruned encoders and their dense twins, with random weights."""

import argparse
from pathlib import Path

import torch

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.console import short_errors
from cropr_mm.profiling.run_mode import FREEZE_HELP
from experiments import alternatives, deadline, memory, throughput, train_step
from experiments.recipe_memory import WAYS
from experiments.studies import STUDIES

CONFIG = "configs/segmentation/cropr_tiny_segmenter_camvid.py"
DTYPES = ("fp32", "bf16", "fp16", "amp")
KERNELS = ("auto", "flash", "math")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Parser = argparse.ArgumentParser


def main() -> None:
    """Parse arguments and run one measurement."""
    parser = Parser(description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True, metavar="PROGRAM")
    modules = {
        "throughput": (throughput, add_throughput, "time the encoders of one study of speed"),
        "memory": (memory, add_memory, "estimate the memory of models; nothing is timed"),
        "train-step": (train_step, add_train_step, "count and time a step of training"),
        "deadline": (deadline, add_deadline, "meet a deadline under a load that comes and goes"),
        "alternatives": (alternatives, add_alternatives, "time other ways to compute parts"),
    }
    for name, (module, add_arguments, text) in modules.items():
        formatter = argparse.RawDescriptionHelpFormatter
        add_arguments(
            programs.add_parser(
                name, help=text, description=module.__doc__, formatter_class=formatter
            )
        )
    add_traceback_option(parser)
    args = parser.parse_args()
    hint = "with --json the same command goes on" if args.program == "throughput" else ""
    with short_errors(ValueError, hint=hint, traceback=args.traceback):
        modules[args.program][0].run(args)


def add_throughput(parser: Parser) -> None:
    """Add which study to time, in which forms."""
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--arch", metavar="NAME", help="in place of the published one")
    parser.add_argument(
        "--img-sizes",
        nargs="+",
        type=int,
        metavar="SIDE",
        help="sides of square images in pixels, in place of the published ones",
    )
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1], metavar="B")
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        help="default: bf16; all in the study of precision",
    )
    parser.add_argument(
        "--sdpa",
        nargs="+",
        choices=KERNELS,
        help="default: auto; flash and math in the study of precision",
    )
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument("--compile", action="store_true", help="also time the compiled form of all")
    parser.add_argument("--freeze", action="store_true", help=FREEZE_HELP)
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all times after each group"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw images per second (PNG); of curve also time and memory over image size, into "
        "FILE with _sizes at the end of its stem",
    )


def add_memory(parser: Parser) -> None:
    """Add whose memory to estimate."""
    commands = parser.add_subparsers(dest="command", required=True)
    about = dict(
        model="a whole detector in training and test",
        step="encoder, linear head and auxiliary losses of a training step",
        size="plain encoders over image sizes, beside the analytic model",
        recipes="a training step of every recipe, and which GPU has as much",
    )
    model, step, size, recipes = (
        commands.add_parser(name, help=text, description=f"Memory of {text}.")
        for name, text in about.items()
    )
    for command in (model, step):
        command.add_argument("config", help="of a Cropr model")
        command.add_argument("--img-size", nargs=2, type=int, metavar=("H", "W"), help="pixels")
    recipes.add_argument("configs", nargs="*", help="of pruned models; default: all recipes")
    recipes.add_argument(
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what of the encoder trains"
    )
    for command in (model, recipes):
        command.add_argument(
            "--objects", type=int, default=20, metavar="N", help="in an image; default: %(default)s"
        )
    model.add_argument("--device", default="cpu", help="cuda measures; default: %(default)s")
    size.add_argument(
        "--img-sizes", nargs="+", type=int, metavar="SIDE", help="default: 512 to 2048 pixels"
    )
    size.add_argument("--arch", metavar="NAME", help="default: ViT-L/16")
    for command, dtype in ((model, "amp"), (step, "amp"), (size, "bf16"), (recipes, "amp")):
        command.add_argument("--batch-sizes", nargs="+", type=int, default=[1], metavar="B")
        command.add_argument(
            "--dtype",
            choices=DTYPES,
            default=dtype,
            help="default: %(default)s",
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")


def add_train_step(parser: Parser) -> None:
    """Add whose steps to count and time."""
    parser.add_argument("config", nargs="?", default=CONFIG, help="default: %(default)s")
    parser.add_argument("--img-size", nargs=2, type=int, metavar=("H", "W"), help="pixels")
    parser.add_argument(
        "--batch-size", type=int, default=2, metavar="B", help="default: %(default)s"
    )
    parser.add_argument(
        "--num-cells", nargs="*", type=int, default=[], metavar="N", help="also train N cells"
    )
    parser.add_argument(
        "--routers",
        action="store_true",
        help="also train the modules of Cropr alone, in a dense and in a pruned pass",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--sdpa", choices=KERNELS, default="auto")
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument(
        "--checkpoint-blocks", choices=("on", "off"), help="default: as the config says"
    )
    parser.add_argument("--optimizer", action="store_true", help="with a step of AdamW")
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="0 only counts; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")


def add_deadline(parser: Parser) -> None:
    """Add which model and deadline, and what load."""
    parser.add_argument("config", nargs="?", default=CONFIG, help="default: %(default)s")
    parser.add_argument(
        "--factor", type=float, default=1.5, help="deadline in times of the first share, idle"
    )
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.5, 1.0])
    parser.add_argument("--periods", type=int, default=10, metavar="N", help="idle, busy, idle ...")
    parser.add_argument("--frames", type=int, default=100, metavar="N", help="in each period")
    parser.add_argument("--load", type=int, metavar="N", help="busy processes (default: the cores)")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")


def add_alternatives(parser: Parser) -> None:
    """Add which alternatives to time."""
    parser.add_argument("--groups", nargs="+", choices=list(alternatives.GROUPS))
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--device", default=DEVICE)
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times")


if __name__ == "__main__":
    main()
