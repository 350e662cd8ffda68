"""Find a schedule for a budget: how many tokens to keep after each block of a trained model.

It times the encoder under a few plans, measures on training images what leaving tokens out does to
the loss, and chooses. The result is a config that inherits from yours, a report and a picture.
"""

import argparse
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options


def main() -> None:
    """Parse arguments, search, print and write."""
    args = parse_args()
    # Imports that take seconds come after the options are read.
    from cropr_mm.budget.run import Settings, search_schedule
    from cropr_mm.budget.search import Budget
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.export.runtime import ExportError

    with short_errors(ValueError, ExportError, traceback=args.traceback):
        budget = Budget(args.target_ms, args.speedup, args.max_drop)
        settings = Settings(
            form=args.format,
            batch=args.batch,
            images=args.images,
            reducer=args.reducer,
            rounds=args.rounds,
            device=args.device,
        )
        cfg = load_config(args.config, options=args.cfg_options)
        inherit = not args.cfg_options
        search_schedule(cfg, args.checkpoint, budget, args.out, settings, inherit)


def parse_args() -> argparse.Namespace:
    """Arguments of the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file of the model, dense or pruned")
    parser.add_argument("checkpoint", help="its checkpoint")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--target-ms", type=float, metavar="X", help="of one call of the encoder")
    budget.add_argument("--speedup", type=float, metavar="S", help="over the dense encoder")
    budget.add_argument(
        "--max-drop",
        type=float,
        metavar="D",
        help="largest growth of the training loss, as a share of the dense model's",
    )
    parser.add_argument(
        "--format",
        choices=("eager", "compile", "onnx", "openvino", "aoti"),
        default="eager",
        help="form that will be deployed, in which encoders are timed (default: %(default)s)",
    )
    parser.add_argument("--batch", type=int, default=1, help="images of one call (default: 1)")
    parser.add_argument(
        "--images",
        type=int,
        default=128,
        metavar="N",
        help="training images, half for single steps, half for whole plans (default: %(default)s)",
    )
    parser.add_argument(
        "--reducer",
        metavar="NAME",
        help="method that needs no training (default: the config's own; for a dense one AttnTopK, "
        "without a class token VariancePruner)",
    )
    parser.add_argument("--rounds", type=int, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for results")
    add_cfg_options(parser, "train_dataloader.batch_size=4")
    add_traceback_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
