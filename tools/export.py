"""Export a trained model for ONNX Runtime, OpenVINO or torch, and verify the file.

A card (FILE.json) lies beside the result; `cropr_mm.export.load` reads both. If the file computes
something else than PyTorch, or keeps other tokens, its name ends in .failed and the exit code is 1.
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options
from cropr_mm.export.limits import Limits
from cropr_mm.export.runtime import ExportError
from cropr_mm.export.runtime.card import FORMATS


def main() -> None:
    """Parse arguments, export, say what was compared; exit code 1 if verification failed."""
    args = parse_args()
    # Imports that take seconds come after the options are read.
    from cropr_mm.engine.config import load_config
    from cropr_mm.engine.console import short_errors
    from cropr_mm.export.model import Options, export_model

    limits = Limits(
        difference=args.max_difference,
        pixels=args.max_pixels,
        results=args.max_results,
        detections=args.max_detections,
        tie=args.tie,
    )
    options = Options(
        form=args.format,
        part=args.part,
        img_size=None if args.img_size is None else tuple(args.img_size),
        batch=None if args.dynamic_batch else args.batch,
        opset=args.opset,
        progress=args.progress,
        dense=args.dense,
        images=args.images,
        limits=limits,
    )
    with short_errors(ExportError, traceback=args.traceback), warnings.catch_warnings():
        cfg = load_config(args.config, options=args.cfg_options)
        warnings.simplefilter("ignore")  # of exporters, about their own insides
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        done = export_model(cfg, args.checkpoint, args.out, options)
    print(done.verification)
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
        "--images", type=Path, metavar="DIR", help="images to verify with, besides random ones"
    )
    parser.add_argument("--progress", type=float, help="share of the full reduction, 0 to 1")
    parser.add_argument("--dense", action="store_true", help="the same weights without reduction")
    limits = Limits()
    parser.add_argument(
        "--max-difference",
        type=float,
        default=limits.difference,
        help="of outputs, as a share of the largest value (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=float,
        default=limits.pixels,
        help="of prepared images, in levels of 255 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-results",
        type=float,
        default=limits.results,
        help="share of an image's labels (default: %(default)s)",
    )
    parser.add_argument(
        "--max-detections",
        type=float,
        default=limits.detections,
        help="share of detections of one side only (default: %(default)s)",
    )
    parser.add_argument(
        "--tie",
        type=float,
        default=limits.tie,
        help="scores nearer than this share of the largest are equal (default: %(default)s)",
    )
    add_cfg_options(parser, "model.test_cfg.mode=whole")
    add_traceback_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
