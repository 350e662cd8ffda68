"""Export many models to every format, and store what their verification found.

Trained models are those of `make demo`, `make demo TASK=seg` and `make demo TASK=cls`; they also
get the metrics of their test sets on both sides. The others have random weights, scaled so that
every block matters. Nothing is timed.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.engine.console import short_errors
from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.model import export_model
from cropr_mm.export.options import Options
from cropr_mm.export.program import quiet_exporters
from cropr_mm.export.runtime import ExportError
from cropr_mm.export.runtime.card import FORMATS
from experiments.study_record import study_record

DEMO_IMAGES = Path("data/demo/images/val")
CLASSIFIER = "configs/demo/cropr_tiny_vit_digits_cls.py"
STAGES = dict(_delete_=True, type="cropr_mm.KeepRatios", ratio=0.6, blocks=[2, 5, 8])
WINDOWS: dict[str, Any] = dict(
    with_cls_token=False,
    window_size=7,
    global_block_indexes=[2, 5, 8, 11],
    out_type="featmap",
    schedule=dict(_delete_=True, type="cropr_mm.WindowStages", blocks=[1, 4, 7]),
)


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        config: Its config.
        backbone: Changes of the encoder.
        trained: Folder of the demo's training, under ``--work-dirs``; None for random weights.
        part: 'encoder' or 'model'.
        side: Height and width of the input in pixels; None for the config's.
        changes: Of other entries of the config, by dotted key.
    """

    config: str
    backbone: Mapping[str, Any] = field(default_factory=dict)
    trained: str | None = None
    part: str = "model"
    side: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


def encoder(arch: str, side: int = 224, **changes: Any) -> Case:
    """An encoder of timm's by name, with three steps that keep 60 % each."""
    backbone = dict(arch=arch, img_size=side, patch_size=None, schedule=STAGES) | changes
    return Case(CLASSIFIER, backbone, part="encoder", side=side)


DETECTION = "configs/detection"
CASES = {
    "ViT-S/16, 224 px": encoder("vit_small_patch16_224"),
    "EVA-02-Ti/14, 224 px": encoder("eva02_tiny_patch14_224"),
    "DINOv2-S/14 with registers, 224 px": encoder("vit_small_patch14_reg4_dinov2"),
    "DINOv3-S/16, 256 px": encoder("vit_small_patch16_dinov3", 256),
    "ViT-S/16 in windows with relative positions, 224 px": encoder(
        "vit_small_patch16_224",
        **{**WINDOWS, "use_rel_pos": True, "window_rope": "slot"},
    ),
    "EVA-02-Ti/14 in windows, raster order, 392 px": encoder(
        "eva02_tiny_patch14_224", 392, **{**WINDOWS, "survivor_order": "raster"}
    ),
    "PVT": Case("configs/classification/cropr_tiny_pvt_trashnet.py", part="encoder"),
    "classifier, digits": Case(CLASSIFIER, trained="demo_cls"),
    "segmenter, digits": Case("configs/demo/cropr_tiny_segmenter_digits.py", trained="demo_seg"),
    "cascade, digits": Case("configs/demo/cropr_tiny_cascade_digits.py", trained="demo"),
    "Mask R-CNN, EVA-02-S, 224 px": Case(
        f"{DETECTION}/cropr_eva02s_maskrcnn_coco.py", dict(img_size=224), side=224
    ),
    "cascade with soft suppression and maskness, EVA-02-B, 512 px": Case(
        f"{DETECTION}/cropr_eva02b_cascade_coco.py",
        dict(img_size=512),
        side=512,
        changes={
            "model.data_preprocessor.pad_size_divisor": 512,
            "model.test_cfg.rcnn": dict(
                _delete_=True,
                score_thr=0.0,
                nms=dict(type="cropr_mm.soft_nms", iou_threshold=0.6),
                max_per_img=100,
                maskness_thr=0.5,
                mask_thr_binary=0.5,
            ),
        },
    ),
}


def main() -> None:
    """Export, and write the record after each file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--work-dirs", type=Path, default=Path("work_dirs"), metavar="DIR")
    parser.add_argument("--evaluate", type=int, default=64, metavar="N", help="test images")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="goes on if there")
    args = parser.parse_args()
    with short_errors(ValueError):
        record = json.loads(args.json.read_text()) if args.json.exists() else {"models": {}}
        record |= study_record()
        for name in args.cases:
            found = record["models"].setdefault(name, {})
            for form in args.formats:
                found[form] = run(CASES[name], form, args)
                print(f"{name}, {form}: {found[form]}", flush=True)
                args.json.write_text(json.dumps(record, indent=1) + "\n")


def run(case: Case, form: str, args: argparse.Namespace) -> dict[str, Any]:
    """What the verification of one file found, or why there is none."""
    changes = {f"model.backbone.{name}": value for name, value in case.backbone.items()}
    cfg = load_config(case.config, options={**changes, **case.changes})
    options = Options(
        form=form,
        part=case.part,
        img_size=None if case.side is None else (case.side, case.side),
        images=DEMO_IMAGES if case.trained else None,
        evaluate=args.evaluate if case.trained else None,
    )
    with TemporaryDirectory() as folder, quiet_exporters():
        file = Path(folder)
        try:
            checkpoint = weights(case, cfg, args.work_dirs, file / "weights.pth")
            out = file / f"model{FORMATS[form]}"
            verification = export_model(cfg, str(checkpoint), out, options).verification
        except (SetupError, ExportError) as error:
            return {"refused": str(error)}
        return asdict(verification)


def weights(case: Case, cfg: Config, work_dirs: Path, file: Path) -> Path:
    """The checkpoint of a case; random weights are written to ``file``."""
    if case.trained is not None:
        found = sorted((work_dirs / case.trained).glob("iter_*.pth"))
        if not found:
            raise ValueError(f"expected the checkpoint of a demo in {work_dirs / case.trained}")
        return found[-1]
    torch.manual_seed(0)
    model = build_model(cfg)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "backbone" in name:
                value.normal_(std=1.5 * value[0].numel() ** -0.5)
            elif value.ndim == 1 and "backbone" in name and name.endswith("gamma"):
                value.fill_(0.5)
            elif value.ndim > 1:
                value.normal_(std=1.2 * value[0].numel() ** -0.5)
    torch.save(dict(state_dict=model.state_dict()), file)
    return file


if __name__ == "__main__":
    main()
