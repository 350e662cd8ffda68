"""Run an exported model on images and draw the results.

Needs the runtime of the model's format, numpy and pillow; neither OpenMMLab nor, for ONNX and
OpenVINO, torch.
"""

import argparse
from pathlib import Path

from PIL import Image

from cropr_mm.export.runtime import ExportError, load
from cropr_mm.export.runtime.draw import describe, draw_result
from cropr_mm.export.runtime.pixels import read_image


def main() -> None:
    """Parse arguments, run, write one picture for each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="file that tools/export.py wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--threads", type=int, help="to compute with (default: the runtime's)")
    args = parser.parse_args()
    try:
        pictures = {file: read_image(file) for file in args.images}
        names = picture_names(args.images)
        args.out.mkdir(parents=True, exist_ok=True)
        model = load(args.model, args.threads)
        for (file, picture), name in zip(pictures.items(), names, strict=True):
            (result,) = model(picture)
            Image.fromarray(draw_result(picture, result, model.card)).save(args.out / name)
            print(f"{args.out / name}  {describe(result, model.card)}  ({file})")
    except (ExportError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def picture_names(files: list[str]) -> list[str]:
    """Names of the pictures to write.

    Raises:
        ExportError: If two images would have the same.
    """
    names = [f"{Path(file).stem}.png" for file in files]
    if len(set(names)) < len(files):
        raise ExportError(f"expected images of different names, got {', '.join(files)}")
    return names


if __name__ == "__main__":
    main()
