"""Prune a dense checkpoint without training it again.

The folder OUT gets config.py and model.pth, which tools/test.py tests.
"""

import argparse
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import ConfigOptions, add_cfg_options


def main() -> None:
    """Parse arguments, write config and checkpoint, say where they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "config", help="config file of the dense model, or of a pruned one with ShortcutFusion"
    )
    parser.add_argument("checkpoint", help="checkpoint of the dense model")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--pruned",
        type=float,
        metavar="SHARE",
        help="share of the tokens that are gone before the last block (default: 0.5)",
    )
    parser.add_argument(
        "--reducer",
        metavar="NAME",
        help="method that needs no training (default: ShortcutPruner; with --images 0 AttnTopK, "
        "or without a class token VariancePruner)",
    )
    parser.add_argument(
        "--reducer-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="its arguments, such as signal=column_mean",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="training images, without their labels, to which the shortcuts are fitted by which "
        "pruned tokens come back (default: 64; 0 fits none)",
    )
    parser.add_argument("--device", help="where the fit runs (default: a GPU where there is one)")
    add_cfg_options(parser, "train_dataloader.batch_size=4")
    add_traceback_option(parser)
    args = parser.parse_args()
    if args.reducer_options and args.reducer is None:
        parser.error("--reducer-options expects --reducer")
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.engine.prune_checkpoint import prune_checkpoint

    reducer = None
    if args.reducer is not None:
        name = f"cropr_mm.{args.reducer.removeprefix('cropr_mm.')}"
        reducer = dict(args.reducer_options or {}, type=name)
    with short_errors(traceback=args.traceback):
        cfg = load_config(args.config, options=args.cfg_options)
        result = prune_checkpoint(
            cfg, args.checkpoint, args.out, args.pruned, reducer, args.images, args.device
        )
        print(result)


if __name__ == "__main__":
    main()
