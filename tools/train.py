"""Train a config of mmdet, mmsegmentation or mmpretrain."""

import argparse

from cropr_mm.engine.arguments import add_device_option, add_traceback_option, hide_gpus
from cropr_mm.engine.cfg_options import add_cfg_options


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for output (default: work_dirs/<config name>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CKPT",
        help="go on from this checkpoint; without one, from the latest in the work dir",
    )
    parser.add_argument(
        "--load-from", metavar="CKPT", help="start from the weights of this checkpoint"
    )
    parser.add_argument(
        "--trainable",
        choices=("all", "routers"),
        default="all",
        help="routers: freeze encoder and heads, and train the Cropr modules alone",
    )
    parser.add_argument(
        "--progress",
        type=float,
        metavar="SHARE",
        help="share of the full reduction while routers learn (default: 0, so that all learn from "
        "one dense pass; a curriculum of the config decides itself)",
    )
    parser.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        help="with or without automatic mixed precision (default: as in the config)",
    )
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    parser.add_argument(
        "--strategy",
        choices=("ddp", "fsdp"),
        help="what each process of a launcher has: the whole model, or a shard of parameters, "
        "gradients and optimizer (default: as in the config, or ddp)",
    )
    add_cfg_options(parser, "train_dataloader.batch_size=4")
    add_device_option(parser)
    add_traceback_option(parser)
    args = parser.parse_args()
    if args.resume and args.load_from:
        parser.error("--load-from starts a training, --resume goes on with one: expected one")
    if args.progress is not None and args.trainable != "routers":
        parser.error("--progress expects --trainable routers")
    if args.device == "cpu":
        hide_gpus()
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.engine.train import train
    from cropr_mm.hooks.finite_loss_hook import NonFiniteError

    hint = "a training goes on with --resume"
    with short_errors(NonFiniteError, hint=hint, traceback=args.traceback):
        cfg = load_config(args.config, args.work_dir, args.launcher, args.cfg_options)
        train(
            cfg,
            args.resume,
            args.amp,
            args.load_from,
            args.trainable,
            args.progress,
            args.strategy,
        )


if __name__ == "__main__":
    main()
