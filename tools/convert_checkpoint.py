"""Turn a published checkpoint into one of ours.

Sources: cropr (classifiers and segmenters of Token Cropr's released code), eva02_det (EVA-02
detectors on Objects365, COCO or LVIS), eva02_mim (EVA-02 encoders), mae (masked autoencoders),
vitdet (detectron2's ViTDet), encoder (any encoder that backbone.init_cfg loads as it is, such as
those of Hugging Face transformers, trainings of DINOv2 and DINOv3, mmpretrain and timm; needs
--config). Loading runs no code that a file may carry.
"""

import argparse

from cropr_mm.checkpoints.published import SOURCES
from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.config import load_config
from cropr_mm.engine.console import short_errors
from cropr_mm.engine.convert import convert_checkpoint
from cropr_mm.engine.convert_encoder import convert_encoder

_ENCODER = "encoder"


def main() -> None:
    """Parse arguments, write the checkpoint, say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("src", help="published file (.pth, .pt, .pkl, .safetensors) or its address")
    parser.add_argument("dst", help="file to write")
    parser.add_argument(
        "--source", required=True, choices=[*SOURCES, _ENCODER], help="what the file is"
    )
    parser.add_argument(
        "--config",
        help="fit all sizes to this config's model and compare every name and shape with it "
        "(default: keep the sizes of the file)",
    )
    parser.add_argument(
        "--entry",
        help="entry of the file with the weights, such as model or ema_state "
        "(default: averaged weights where there are some)",
    )
    add_traceback_option(parser)
    args = parser.parse_args()
    if args.source == _ENCODER and (args.config is None or args.entry is not None):
        parser.error("--source encoder expects --config, whose encoder it fits, and no --entry")
    with short_errors(ValueError, traceback=args.traceback):
        cfg = load_config(args.config) if args.config else None
        if args.source == _ENCODER:
            print(convert_encoder(args.src, args.dst, cfg))
        else:
            print(convert_checkpoint(args.src, args.dst, args.source, cfg, args.entry))


if __name__ == "__main__":
    main()
