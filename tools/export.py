"""Export a trained model for ONNX Runtime, OpenVINO or torch, and verify the file.

A card (FILE.json) lies beside the result; `cropr_mm.export.load` reads both. If the file computes
something else than PyTorch, or keeps other tokens, its name ends in .failed and the exit code is 1.
"""

import argparse
import sys
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options
from cropr_mm.export.limits import LIMITS, Limits
from cropr_mm.export.runtime import ExportError
from cropr_mm.export.runtime.card import FORMATS

LIMIT_HELP = {
    "difference": "of outputs, as a share of the largest value",
    "rms": "root mean square of that difference, as a share of the output's",
    "pixels": "of prepared images, in levels of 255",
    "results": "share of an image's labels",
    "detections": "share of detections of one side only",
    "metric": "of metrics on test images, in points of 100",
}


def main() -> None:
    """Parse arguments, export, say what was compared; exit code 1 if verification failed."""
    args = parse_args()
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.export.model import Options, export_model
    from cropr_mm.export.program import quiet_exporters
    from cropr_mm.export.tensorrt import check_nodes, node_table

    given = {name: getattr(args, name) for name in Limits._fields}
    options = Options(
        form=args.format,
        part=args.part,
        img_size=None if args.img_size is None else tuple(args.img_size),
        batch=None if args.dynamic_batch else args.batch,
        opset=args.opset,
        progress=args.progress,
        dense=args.dense,
        dtype=args.dtype,
        calibrate=args.calibrate,
        images=args.images,
        evaluate=args.evaluate,
        rounds=args.rounds,
        limits={name: value for name, value in given.items() if value is not None},
    )
    with short_errors(ExportError, traceback=args.traceback):
        if args.check and args.format != "onnx":
            raise ExportError(
                f"--check looks at ONNX files: expected --format onnx, got {args.format}"
            )
        cfg = load_config(args.config, options=args.cfg_options)
        with quiet_exporters():
            done = export_model(cfg, args.checkpoint, args.out, options)
        ran = done.card.about["ran"]
        unused = f"; not used: {ran['not_used']}" if ran.get("not_used") else ""
        print(f"ran in      {ran['runtime']}, {ran['device']}, {ran['precision']}{unused}")
        print(done.verification)
        if done.speed is not None:
            print(done.speed)
        if args.check:
            print(node_table(check_nodes(done.file)))
    print(f"{'file':<12}{done.file}\n{'card':<12}{done.file}.json")
    if done.verification.faults:
        sys.exit(1)


def parse_args() -> argparse.Namespace:
    """Arguments of the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file of the model")
    parser.add_argument("checkpoint", help="its checkpoint, as trained or deployed")
    parser.add_argument("out", type=Path, help="file to write: .onnx, .xml (OpenVINO) or .pt2")
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument(
        "--part",
        choices=("encoder", "model"),
        default="model",
        help="the encoder alone, or the whole model with its results (default: model)",
    )
    parser.add_argument(
        "--img-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="size of the input, one file a size (default: the test pipeline's)",
    )
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch", type=int, default=1, help="images of one call (default: 1)")
    batch.add_argument("--dynamic-batch", action="store_true", help="any number of images")
    parser.add_argument("--opset", type=int, default=18, help="of ONNX (default: 18)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="what the encoder is stored in; what ran is reported (default: fp32)",
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="DIR",
        help="int8 in the encoder's linear layers, by the ranges found on these images",
    )
    parser.add_argument("--progress", type=float, help="share of the full reduction, 0 to 1")
    parser.add_argument("--dense", action="store_true", help="the same weights without reduction")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to verify with, besides random ones"
    )
    parser.add_argument(
        "--evaluate",
        type=int,
        metavar="N",
        help="also compare the config's metrics on N images of the test set",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=0,
        metavar="N",
        help="also time N calls against the dense model in the same format (default: none)",
    )
    parser.add_argument(
        "--check", choices=("tensorrt",), help="list the file's nodes against what TensorRT takes"
    )
    add_limits(parser)
    add_cfg_options(parser, "model.test_cfg.mode=whole")
    add_traceback_option(parser)
    return parser.parse_args()


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Options of what may differ; their defaults depend on what the weights are stored in."""
    group = parser.add_argument_group("what may differ (default: fp32's; wider for the others)")
    exact = LIMITS["fp32"]
    for name, text in LIMIT_HELP.items():
        default = getattr(exact, name)
        group.add_argument(f"--max-{name}", dest=name, type=float, help=f"{text} ({default:g})")
    group.add_argument(
        "--min-agreement",
        dest="agreement",
        type=float,
        help=f"share of kept tokens that are the same ({exact.agreement:g}: every set is equal)",
    )
    group.add_argument(
        "--tie",
        type=float,
        help=f"scores nearer than this share of the largest are equal ({exact.tie:g})",
    )


if __name__ == "__main__":
    main()
