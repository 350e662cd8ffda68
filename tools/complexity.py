"""Count tokens, multiply-adds and parameters of a config's model, without weights or data."""

import argparse
import json
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options


def main() -> None:
    """Parse arguments, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", help="config file with a cropr_mm.CroprViT backbone")
    parser.add_argument(
        "--methods",
        action="store_true",
        help="instead: the table of all reduction methods, with those that the config imports",
    )
    parser.add_argument(
        "--fusions",
        action="store_true",
        help="instead: the table of all ways to bring tokens back, in the place of the config's",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write everything to this file"
    )
    parser.add_argument(
        "--img-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="image size in pixels (default: img_size of the backbone)",
    )
    add_cfg_options(parser, "model.backbone.schedule.rate=30")
    add_traceback_option(parser)
    args = parser.parse_args()
    if not (args.config or args.methods) or (args.methods and args.fusions):
        parser.error("expected a config or --methods")
    if args.cfg_options and not args.config:
        parser.error("--cfg-options expects a config")
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import check_outputs, short_errors
    from cropr_mm.profiling.complexity import complexity_report, format_complexity
    from cropr_mm.profiling.fusion_table import fusion_table
    from cropr_mm.profiling.method_table import method_table

    if args.methods:
        with short_errors(ValueError, traceback=args.traceback):
            if args.config:
                load_config(args.config, options=args.cfg_options)
            print(method_table())
        return
    if args.fusions and (args.json or args.img_size):
        parser.error("--fusions takes neither --json nor --img-size")
    with short_errors(ValueError, traceback=args.traceback):
        check_outputs(json=args.json)
        cfg = load_config(args.config, options=args.cfg_options)
        if args.fusions:
            print(fusion_table(cfg))
            return
        size = tuple(args.img_size) if args.img_size else None
        report = complexity_report(cfg, size)
    print(format_complexity(report))
    if args.json:
        source = {"config": args.config, "cfg_options": args.cfg_options or {}}
        args.json.write_text(json.dumps({**source, **report}, indent=2) + "\n")
        print(f"written to {args.json}")


if __name__ == "__main__":
    main()
