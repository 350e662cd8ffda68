"""Write a page that shows which tokens trained models keep, block by block, and what they predict.

The page is one HTML file that opens no other: a slider over the blocks, the predictions beside it,
tokens and multiply-adds of each block. Images go through the test pipeline of each model's config.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

from cropr_mm.engine.arguments import add_traceback_option
from cropr_mm.engine.cfg_options import add_cfg_options
from cropr_mm.engine.config import load_config
from cropr_mm.engine.console import short_errors
from cropr_mm.engine.options import names_of
from cropr_mm.engine.outputs import check_writable
from cropr_mm.engine.preflight import SetupError
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.visualization.page import Page, page_html
from cropr_mm.visualization.trained import load_trained


def main() -> None:
    """Parse arguments, check all of them, look at the images and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file with a cropr_mm.CroprViT backbone")
    parser.add_argument("checkpoint", help="checkpoint file of this config's model")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument(
        "--against",
        nargs=2,
        action="append",
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="another model to show beside the first; may be given several times",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="one for each model (default: config files, or folders where files are called alike)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: work_dirs/visualize/<config name>.html"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score of detections (default: 0.3)"
    )
    add_cfg_options(parser, "model.test_cfg.mode=whole")
    add_traceback_option(parser)
    args = parser.parse_args()
    pairs = [(args.config, args.checkpoint), *map(tuple, args.against)]
    names = args.names or names_of([config for config, _ in pairs])
    out = args.out or Path("work_dirs/visualize", f"{Path(args.config).stem}.html")
    with short_errors(traceback=args.traceback):
        if len(names) != len(pairs) or len(set(names)) < len(names):
            raise SetupError(
                f"expected {len(pairs)} different names (--names), got {', '.join(names)}"
            )
        check_images(args.images)
        if out.suffix not in (".html", ".htm") or out.is_dir():
            raise SetupError(f"--out expects a file that ends in .html, got {out}")
        check_writable("--out", out)
        try:
            device = Mode(device=args.device).device
        except (ValueError, RuntimeError) as error:
            raise SetupError(f"--device {args.device}: {error}") from error
        models = [
            load_trained(name, load_config(config, options=args.cfg_options), checkpoint, device)
            for name, (config, checkpoint) in zip(names, pairs, strict=True)
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        page = Page(models, args.score_thr)
        for image in args.images:
            page.add(image)
        out.write_text(page_html(page.data()), encoding="utf-8")
    print(f"page  {out}")


def check_images(files: list[str]) -> None:
    """Raise SetupError for files that are missing or no images."""
    for file in files:
        if not Path(file).is_file():
            raise SetupError(f"expected an image file, found none at {file}")
        content = np.fromfile(file, np.uint8)
        if not len(content) or cv2.imdecode(content, cv2.IMREAD_COLOR) is None:
            raise SetupError(f"expected an image file that OpenCV reads, got {file}")


if __name__ == "__main__":
    main()
