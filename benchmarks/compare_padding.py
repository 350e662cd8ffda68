"""What dropping padding first does to trained models: padding among survivors, and AP.

Needs the models that benchmarks/compare_pruners.py trains.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner

from cropr_mm.analysis.recorder import PruningRecorder
from cropr_mm.checkpoints import safe_load
from cropr_mm.comparison.runs import Run
from cropr_mm.comparison.variants import DEFAULT_VARIANTS, PACKS, VARIANTS
from cropr_mm.ops.padding import is_padding
from cropr_mm.runner import evaluate, load_config, short_errors

OPTION = "model.backbone.pad_first"


def main() -> None:
    """Parse arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("work_dirs/compare/det"),
        help="folder of compare_pruners.py; relative to the repository (default: %(default)s)",
    )
    parser.add_argument("--pack", choices=PACKS, default="person")
    pruned = [name for name in DEFAULT_VARIANTS if VARIANTS[name].pruned]
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=pruned)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    args = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    record: dict[str, list[dict]] = {}
    with short_errors():
        runs = [
            Run(args.pack, seed, name, args.runs / args.pack / f"seed{seed}" / name)
            for name in args.variants
            for seed in args.seeds
        ]
        for run in runs:
            run.check()
        for run in runs:
            record.setdefault(run.name, []).append(
                {str(value): measure(run, value) for value in (False, True)}
            )
    print("\nmean of seeds; in brackets each seed\n")
    print("| pruner | pad_first | padding among survivors, % | mask AP, % |")
    print("| --- | --- | ---: | ---: |")
    for name, seeds in record.items():
        for value in ("False", "True"):
            shares, precisions = (
                np.array([100 * seed[value][key] for seed in seeds]) for key in ("padding", "mask")
            )
            print(f"| {name} | {value} | {text(shares)} | {text(precisions)} |")
    file = args.runs / "padding.json"
    file.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nnumbers  {file}")


@torch.no_grad()
def measure(run: Run, pad_first: bool) -> dict[str, float]:
    """Share of padding among the survivors of the last step, and AP, of one trained model."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(str(run.config), folder, options={OPTION: pad_first})
        cfg.test_evaluator.outfile_prefix = f"{folder}/predictions"
        metrics = evaluate(cfg, str(run.checkpoint))
    cfg = load_config(str(run.config), options={OPTION: pad_first})
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(safe_load(run.checkpoint)["state_dict"])
    survivors = padding = 0
    for batch in Runner.build_dataloader(cfg.test_dataloader):
        images = model.data_preprocessor(batch)["inputs"]
        with PruningRecorder(model.backbone) as recorder:
            model.backbone(images)
        alive = recorder.maps().flatten(1) < 0
        survivors += int(alive.sum())
        padding += int((alive & is_padding(images, model.backbone.patch_size)).sum())
    return {
        "padding": padding / survivors,
        "box": metrics["coco/bbox_mAP"],
        "mask": metrics["coco/segm_mAP"],
    }


def text(values: np.ndarray) -> str:
    """Mean, and each value in brackets."""
    return f"{values.mean():.1f} ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    main()
