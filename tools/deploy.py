"""Strip a training checkpoint to what inference needs."""

import argparse

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options


def main() -> None:
    """Parse arguments, write the checkpoint, say what it saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file the checkpoint was trained with")
    parser.add_argument("checkpoint", help="training checkpoint")
    parser.add_argument("out", help="file to write")
    parser.add_argument(
        "--progress",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the full reduction to deploy for, 0 to 1 (default: 1)",
    )
    add_cfg_options(parser, "model.backbone.img_size=512")
    add_traceback_option(parser)
    args = parser.parse_args()
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.export.deploy import deploy_checkpoint

    with short_errors(ValueError, traceback=args.traceback):
        cfg = load_config(args.config, options=args.cfg_options)
        print(deploy_checkpoint(cfg, args.checkpoint, args.out, args.progress))


if __name__ == "__main__":
    main()
