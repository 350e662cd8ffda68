"""Draw losses and IoU of encoder-only segmenters: python docs/figures/encoder_only.py."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "benchmarks/results/encoder_only_camvid.json"
FILE = ROOT / "docs/images/encoder_only_camvid.png"
LABELS = {"unpruned_dinov2s_eomt_camvid": "dense", "cropr_dinov2s_eomt_camvid": "85 % pruned"}
LOSSES = {"loss_cls": "class loss", "loss_mask": "mask loss", "loss_dice": "dice loss"}


def main() -> None:
    """Draw the losses behind the last block, and the IoU of each class at the end."""
    runs = json.loads(RECORD.read_text())["runs"]
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), width_ratios=[1, 1, 1, 1.8])
    for axis, (name, title) in zip(axes, LOSSES.items(), strict=False):
        for run, label in LABELS.items():
            axis.plot(runs[run]["iterations"], runs[run]["losses"][name], label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iteration")
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    classes = list(runs[next(iter(LABELS))]["iou"])
    for i, (run, label) in enumerate(LABELS.items()):
        places = [c + 0.4 * (i - 0.5) for c in range(len(classes))]
        axes[3].bar(places, [runs[run]["iou"][c] for c in classes], width=0.4, label=label)
    axes[3].set_xticks(range(len(classes)), classes, rotation=60, fontsize=8)
    axes[3].set_title("IoU on 101 validation photos, %", fontsize=10)
    figure.tight_layout()
    figure.savefig(FILE, dpi=100)
    print(f"{FILE.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
