"""Test a checkpoint of a config of mmdet, mmsegmentation or mmpretrain."""

import argparse

from cropr_mm.engine.arguments import add_device_option, add_traceback_option, hide_gpus
from cropr_mm.engine.cfg_options import add_cfg_options


def main() -> None:
    """Parse arguments and test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file of this config's model")
    parser.add_argument("--work-dir", help="folder for output (default: work_dirs/<config name>)")
    parser.add_argument(
        "--benchmark", action="store_true", help="also time the model against its dense twin"
    )
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="timed calls of each in --benchmark (default: 20)"
    )
    parser.add_argument(
        "--audit",
        action="store_true",
        help="also find out which ground-truth objects lost their tokens, by block, size and class",
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: tta_model and tta_pipeline of the config, or each image as "
        "it is and mirrored",
    )
    parser.add_argument(
        "--progress",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="share of the full reduction, 0 to 1, also with a curriculum; of several, metrics and "
        "times in one table",
    )
    parser.add_argument("--out", metavar="FILE", help="write all predictions to this .pkl file")
    parser.add_argument("--show-dir", metavar="DIR", help="draw all predictions into this folder")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")
    add_cfg_options(parser, "test_dataloader.batch_size=4")
    add_device_option(parser)
    add_traceback_option(parser)
    args = parser.parse_args()
    shares = args.progress or [None]
    if args.rounds is not None and not args.benchmark and len(shares) == 1:
        parser.error("--rounds expects --benchmark, or several shares of --progress")
    if len(shares) > 1 and (args.benchmark or args.audit or args.tta or args.out or args.show_dir):
        parser.error(
            "--progress expects one share with --benchmark, --audit, --tta, --out or --show-dir"
        )
    rounds = 20 if args.rounds is None else args.rounds
    if args.tta and (args.benchmark or args.audit):
        parser.error("--tta expects neither --benchmark nor --audit, which look at single passes")
    if args.device == "cpu":
        hide_gpus()
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.engine.evaluate import evaluate
    from cropr_mm.engine.evaluate_shares import evaluate_shares

    with short_errors(traceback=args.traceback):
        cfg = load_config(args.config, args.work_dir, args.launcher, args.cfg_options)
        if len(shares) > 1:
            evaluate_shares(cfg, args.checkpoint, shares, rounds)
            return
        evaluate(
            cfg,
            args.checkpoint,
            out=args.out,
            show_dir=args.show_dir,
            benchmark=args.benchmark,
            rounds=rounds,
            audit=args.audit,
            tta=args.tta,
            progress=shares[0],
        )


if __name__ == "__main__":
    main()
