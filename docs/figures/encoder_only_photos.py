"""Draw what two trained encoder-only segmenters see in photos.

Usage: PYTHONPATH=. python docs/figures/encoder_only_photos.py DENSE.pth PRUNED.pth PHOTO...
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

from cropr_mm.engine.config import load_config
from cropr_mm.visualization.predictions import predicted
from cropr_mm.visualization.trained import load_trained

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/images/encoder_only_photos.jpg"
CONFIGS = {
    "dense": ROOT / "configs/segmentation/unpruned_dinov2s_eomt_camvid.py",
    "85 % pruned": ROOT / "configs/segmentation/cropr_dinov2s_eomt_camvid.py",
}


def main() -> None:
    """One row for each photo: the photo, and the classes that both models give its pixels."""
    *checkpoints, photos = sys.argv[1], sys.argv[2], sys.argv[3:]
    models = [
        load_trained(name, load_config(str(path)), checkpoint)
        for (name, path), checkpoint in zip(CONFIGS.items(), checkpoints, strict=True)
    ]
    figure, axes = plt.subplots(
        len(photos), 3, figsize=(11, 2.85 * len(photos)), squeeze=False, layout="constrained"
    )
    for row, photo in zip(axes, photos, strict=True):
        for axis, model in zip(row[1:], models, strict=True):
            seen = model.look(photo)
            row[0].imshow(seen.image)
            picture, _ = predicted(seen.image, 2, seen.sample, model.meta, score_thr=0.3)
            axis.imshow(picture)
            axis.set_title(model.name, fontsize=10)
        for axis in row:
            axis.axis("off")
    figure.savefig(FILE, dpi=90)
    print(f"{FILE.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
