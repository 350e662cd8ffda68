"""Make a classification config small, and give it demo data under the labels it expects."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from timm.layers import to_2tuple

from cropr_mm.layers.arch import resolve_arch
from cropr_mm.layers.cvt_arch import resolve_cvt

GRID = 16  # patches a side


def shrink_classifier(model: ConfigDict) -> None:
    """Narrow layers on GRID x GRID patches, of which the schedule removes the same part."""
    backbone = model.backbone
    model.head.in_channels = 32
    if backbone.type == "cropr_mm.CroprPVT":  # its schedules are of shares
        backbone.arch.update(embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4))
        backbone.img_size = 128
        return
    if backbone.type == "cropr_mm.CroprCvT":
        depths = resolve_cvt(backbone.arch).depths
        backbone.arch = dict(embed_dims=(8, 16, 32), depths=depths, num_heads=(1, 2, 4))
        backbone.img_size = 128
        return
    arch = resolve_arch(backbone.arch)
    patch = backbone.get("patch_size") or arch.patch_size
    height, width = to_2tuple(backbone.get("img_size") or arch.img_size)
    schedule = backbone.get("schedule", {})
    if "rate" in schedule:
        schedule.rate = schedule.rate * GRID**2 // (height // patch * (width // patch))
    backbone.update(
        arch={**asdict(arch), "embed_dim": 32, "num_heads": 2, "hidden_dim": 48},
        img_size=GRID * patch,
        patch_size=patch,
    )


def use_class_data(cfg: Config, data: Path, folder: Path) -> None:
    """Put digits in the place of the config's images, with labels among its classes."""
    size = cfg.model.backbone.img_size
    classes = cfg.model.head.num_classes
    for split in ("train", "val"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        images = sorted((data / "images" / split).iterdir())
        write = WRITERS.get(loader.dataset.type, _as_list)
        write(loader.dataset, images, classes, folder / f"labels_{split}")
        resize_steps(loader.dataset.pipeline, size)
    for key in ("test_dataloader", "test_evaluator", "test_cfg"):
        cfg[key] = None


def resize_steps(steps: list[dict[str, Any]], size: int) -> None:
    """Set every size in a pipeline."""
    for step in steps:
        for key in ("scale", "crop_size"):
            if key in step:
                step[key] = size if isinstance(step[key], int) else (size, size)


def _as_list(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """List file: the highest label and the lowest."""
    file = stem.with_suffix(".txt")
    file.write_text("".join(f"{p.name} {-i % classes}\n" for i, p in enumerate(images)))
    dataset.update(data_root="", ann_file=str(file), data_prefix=str(images[0].parent))


def _as_cub(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """The three files of CUB-200-2011."""
    stem.mkdir()
    (stem / "images").symlink_to(images[0].parent)
    used = int(dataset.split == "train")
    columns = {
        "images": [p.name for p in images],
        "image_class_labels": [-i % classes + 1 for i in range(len(images))],
        "train_test_split": [used] * len(images),
    }
    for name, values in columns.items():
        lines = [f"{i + 1} {value}\n" for i, value in enumerate(values)]
        (stem / f"{name}.txt").write_text("".join(lines))
    dataset.data_root = str(stem)


def _as_nabirds(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """The files of NABirds, whose class ids have gaps; images are fewer than classes."""
    stem.mkdir()
    (stem / "images").symlink_to(images[0].parent)
    used = int(dataset.split == "train")
    columns = {
        "images": [p.name for p in images],
        "image_class_labels": [295 + 2 * i for i in range(len(images))],
        "train_test_split": [used] * len(images),
    }
    for name, values in columns.items():
        lines = [f"id-{i} {value}\n" for i, value in enumerate(values)]
        (stem / f"{name}.txt").write_text("".join(lines))
    (stem / "classes.txt").write_text("".join(f"{i} bird {i}\n" for i in range(1011)))
    names = [f"bird {i}" for i in range(classes)]
    dataset.update(data_root=str(stem), metainfo=dict(classes=names))


def _as_nuswide(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """The files of NUS-WIDE: every concept is in the first image, none in the others."""
    split = dataset.split.capitalize()
    for folder in ("ImageList", "ConceptsList", "Groundtruth/TrainTestLabels"):
        (stem / folder).mkdir(parents=True)
    (stem / "Flickr").symlink_to(images[0].parent)
    (stem / f"ImageList/{split}Imagelist.txt").write_text("\n".join(p.name for p in images))
    concepts = [f"concept{i}" for i in range(classes)]
    (stem / "ConceptsList/Concepts81.txt").write_text("\n".join(concepts))
    marks = "\n".join(str(int(i == 0)) for i in range(len(images)))
    for concept in concepts:
        file = stem / f"Groundtruth/TrainTestLabels/Labels_{concept}_{split}.txt"
        file.write_text(marks)
    dataset.data_root = str(stem)


def _as_inat(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """COCO json: one class an image, the highest label and the lowest."""
    content = dict(
        images=[dict(id=i, file_name=p.name) for i, p in enumerate(images)],
        annotations=[dict(image_id=i, category_id=-i % classes) for i in range(len(images))],
        categories=[dict(id=c, name=f"class {c}") for c in range(classes)],
    )
    file = stem.with_suffix(".json")
    file.write_text(json.dumps(content))
    dataset.update(
        data_root="", ann_file=str(file), data_prefix=dict(img_path=str(images[0].parent))
    )


def _as_coco(dataset: ConfigDict, images: list[Path], classes: int, stem: Path) -> None:
    """COCO json: the first image has two classes, the others none."""
    content = dict(
        images=[dict(id=i, file_name=p.name) for i, p in enumerate(images)],
        annotations=[dict(image_id=0, category_id=c) for c in (1, classes, classes)],
        categories=[dict(id=c + 1, name=f"class {c}") for c in range(classes)],
    )
    file = stem.with_suffix(".json")
    file.write_text(json.dumps(content))
    dataset.update(
        data_root="", ann_file=str(file), data_prefix=dict(img_path=str(images[0].parent))
    )


WRITERS = {
    "CUB": _as_cub,
    "cropr_mm.CocoMultiLabelDataset": _as_coco,
    "cropr_mm.CocoSingleLabelDataset": _as_inat,
    "cropr_mm.NABirdsDataset": _as_nabirds,
    "cropr_mm.NUSWideDataset": _as_nuswide,
}
