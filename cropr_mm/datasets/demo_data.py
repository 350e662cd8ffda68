"""Demo data made offline: handwritten digits over clutter, annotated for three tasks.

The objects are the 8 x 8 pixel scans that ship with scikit-learn (Alpaydin and Kaynak, UCI machine
learning repository, 1998), enlarged, rotated and tinted. Training and validation use scans of
different writers.
Everything follows from one seed, so that two machines make the same files.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage
from sklearn.datasets import load_digits

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MANIFEST = "manifest.json"
_SPLITS = ("train", "val")
_NUM_VAL_SCANS = 360  # the last scans of the set: writers that the training scans do not have

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DemoSettings:
    """What the demo data looks like.

    Attributes:
        num_train: Training images.
        num_val: Validation images.
        image_size: Side of the square images, pixels.
        digit_size: Smallest and largest side of a digit's scan, pixels.
        max_digits: Most digits in an image; one image in ten has none.
        max_rotation: Largest rotation either way, degrees.
        stroke_contrast: Largest difference of a stroke of clutter from what is around it, in
            8-bit gray levels. Digits differ by about 140.
        seed: Where all random numbers start.
        version: Grows whenever the generator changes, so that old data is made anew.
    """

    num_train: int = 1200
    num_val: int = 200
    image_size: int = 128
    digit_size: tuple[int, int] = (30, 60)
    max_digits: int = 3
    max_rotation: float = 15.0
    stroke_contrast: float = 30.0
    seed: int = 0
    version: int = 2

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_val) < 1:
            raise ValueError(
                f"expected at least one image per split, got {self.num_train} and {self.num_val}"
            )
        low, high = self.digit_size
        if not 8 <= low <= high <= self.image_size * 5 // 8:
            raise ValueError(
                f"expected digit sizes in [8, {self.image_size * 5 // 8}] for images of "
                f"{self.image_size} pixels, got {self.digit_size}"
            )


@dataclass(frozen=True)
class Scene:
    """One image with everything that is known about it.

    Attributes:
        image: Shape (S, S, 3), uint8, BGR.
        masks: One per digit, shape (S, S), bool; they do not overlap.
        labels: Class of each mask, 0 to 9.
    """

    image: NDArray[np.uint8]
    masks: list[NDArray[np.bool_]]
    labels: list[int]


def make_demo_data(out: str | Path, settings: DemoSettings | None = None) -> dict[str, int]:
    """Write the demo data, unless it is already there and whole.

    The files are written beside ``out`` and moved into place at the end. What is in ``out`` is
    kept if its manifest has the same settings and every file its size, else made anew.

    Args:
        out: Folder to make. It may exist only if it is empty or holds demo data.
        settings: What to make; None means the defaults.

    Returns:
        Facts to print: images, digits, empty images of both splits, and files and bytes in all.

    Raises:
        ValueError: If ``out`` holds something else.
    """
    out, settings = Path(out), settings or DemoSettings()
    manifest = _read_manifest(out)
    wanted = json.loads(json.dumps(asdict(settings)))
    if manifest and manifest["settings"] == wanted and _is_whole(out, manifest["files"]):
        return manifest["facts"]
    if out.exists() and not _is_ours(out):
        raise ValueError(f"expected {out} to be empty or to hold demo data, got other files there")

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        root = Path(scratch) / "data"
        facts: dict[str, int] = {}
        for split in _SPLITS:
            facts |= _write_split(root, split, settings)
        files = {
            path.relative_to(root).as_posix(): path.stat().st_size
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
        facts |= dict(files=len(files), bytes=sum(files.values()))
        _write_json(root / MANIFEST, dict(settings=wanted, facts=facts, files=files))
        if out.exists():
            shutil.rmtree(out)
        root.rename(out)
    return facts


def scenes(split: str, settings: DemoSettings) -> Iterator[Scene]:
    """Draw the images of a split one after the other; each has its own random numbers."""
    digits = load_digits()
    scans, labels = digits.images / 16.0, digits.target  # (1797, 8, 8) in [0, 1], (1797,)
    part = slice(-_NUM_VAL_SCANS, None) if split == "val" else slice(None, -_NUM_VAL_SCANS)
    count = settings.num_val if split == "val" else settings.num_train
    for number in range(count):
        rng = np.random.default_rng([settings.seed, _SPLITS.index(split), number])
        yield _draw_scene(rng, scans[part], labels[part], settings)


def _draw_scene(
    rng: np.random.Generator, scans: Array, labels: NDArray[np.int64], settings: DemoSettings
) -> Scene:
    size = settings.image_size
    image = _background(rng, size, settings.stroke_contrast)
    taken = np.zeros((size, size), bool)
    masks, classes = [], []
    num_digits = 0 if rng.random() < 0.1 else rng.integers(1, settings.max_digits + 1)
    for _ in range(num_digits):
        chosen = rng.integers(len(scans))
        side = rng.uniform(*settings.digit_size)
        ink = _enlarge(scans[chosen], side, rng.uniform(-1, 1) * settings.max_rotation)
        place = _free_place(rng, ink > 0.05, taken)
        if place is None:
            continue
        region = tuple(
            slice(start, start + length) for start, length in zip(place, ink.shape, strict=True)
        )
        tint = rng.uniform(165, 255) * rng.uniform(0.75, 1.0, 3)
        image[region] += ink[..., None] * (tint - image[region])
        mask = np.zeros((size, size), bool)
        mask[region] = ink > 0.5
        taken[region] |= ink > 0.05
        masks.append(mask)
        classes.append(int(labels[chosen]))
    image += rng.normal(0, 4, image.shape)
    return Scene(image.round().clip(0, 255).astype(np.uint8), masks, classes)


def _background(rng: np.random.Generator, size: int, stroke_contrast: float) -> Array:
    """Clutter: soft clouds of three scales, and strokes, shape (S, S, 3)."""
    image = np.ones((size, size, 3)) * rng.uniform(45, 90, 3)
    for cells, strength in ((3, 22), (8, 12), (24, 8)):
        cloud = rng.normal(0, strength, (cells, cells))
        cloud = ndimage.zoom(cloud, size / cells, order=1, grid_mode=True, mode="nearest")
        image += cloud[..., None] * rng.uniform(0.4, 1.0, 3)
    y, x = np.mgrid[:size, :size].astype(float)
    for _ in range(rng.integers(4, 10)):
        (y0, x0), angle = rng.uniform(0, size, 2), rng.uniform(0, np.pi)
        length, width = rng.uniform(8, 40), rng.uniform(1.5, 4)
        along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
        across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
        far = np.hypot(across, np.maximum(np.abs(along) - length / 2, 0))
        stroke = np.clip(width - far, 0, 1)
        image += stroke[..., None] * rng.uniform(-stroke_contrast, stroke_contrast, 3)
    return image


def _enlarge(scan: Array, side: float, degrees: float) -> Array:
    """Enlarge and rotate a scan about its middle; its ink in [0, 1], cut to where it shows."""
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) * 8 / side
    canvas = int(np.ceil(side * 1.5))
    middle = np.array([3.5, 3.5]) - matrix @ np.full(2, (canvas - 1) / 2)
    ink = ndimage.affine_transform(scan, matrix, middle, (canvas, canvas), order=3).clip(0, 1)
    rows, columns = np.flatnonzero((ink > 0.05).any(1)), np.flatnonzero((ink > 0.05).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    rng: np.random.Generator, shape: NDArray[np.bool_], taken: NDArray[np.bool_]
) -> tuple[int, int] | None:
    """Find a corner (y, x) where the shape fits without touching others; None after 20 tries."""
    height, width = shape.shape
    for _ in range(20):
        y = int(rng.integers(taken.shape[0] - height + 1))
        x = int(rng.integers(taken.shape[1] - width + 1))
        if not taken[y : y + height, x : x + width].any():
            return y, x
    return None


def _write_split(root: Path, split: str, settings: DemoSettings) -> dict[str, int]:
    images: list[dict] = []
    annotations: list[dict] = []
    labels: list[dict] = []
    counts: list[str] = []
    for folder in ("images", "semantic"):
        (root / folder / split).mkdir(parents=True)
    for number, scene in enumerate(scenes(split, settings)):
        name = f"{number:06d}.png"
        height, width = scene.image.shape[:2]
        images.append(dict(id=number, file_name=name, height=height, width=width))
        semantic = np.zeros((height, width), np.uint8)
        for mask, label in zip(scene.masks, scene.labels, strict=True):
            annotations.append(_annotation(len(annotations) + 1, number, mask, label))
            semantic[mask] = label + 1
        labels.append(dict(img_path=name, gt_label=sorted(set(scene.labels))))
        counts.append(f"{name} {len(scene.labels)}\n")
        _write_png(root / "images" / split / name, scene.image)
        _write_png(root / "semantic" / split / name, semantic)
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    (root / "annotations").mkdir(exist_ok=True)
    _write_json(
        root / "annotations" / f"instances_{split}.json",
        dict(images=images, annotations=annotations, categories=categories),
    )
    _write_json(
        root / "annotations" / f"labels_{split}.json",
        dict(metainfo=dict(classes=CLASSES), data_list=labels),
    )
    (root / "annotations" / f"counts_{split}.txt").write_text("".join(counts))
    empty = sum(not entry["gt_label"] for entry in labels)
    return {
        f"{split}_images": len(images),
        f"{split}_digits": len(annotations),
        f"{split}_empty": empty,
    }


def _annotation(number: int, image: int, mask: NDArray[np.bool_], label: int) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(
        id=number,
        image_id=image,
        category_id=label + 1,
        bbox=[float(value) for value in coco_mask.toBbox(rle)],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=dict(size=list(mask.shape), counts=rle["counts"].decode()),
    )


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), image):
        raise OSError(f"expected to write an image to {path}, but it failed")


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content) + "\n")


def _read_manifest(out: Path) -> dict | None:
    try:
        return json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def _is_whole(out: Path, files: dict[str, int]) -> bool:
    def size(name: str) -> int:
        path = out / name
        return path.stat().st_size if path.is_file() else -1

    return all(size(name) == expected for name, expected in files.items())


def _is_ours(out: Path) -> bool:
    """True where nothing but (parts of) demo data would be removed."""
    return out.is_dir() and {path.name for path in out.iterdir()} <= {
        "images",
        "semantic",
        "annotations",
        MANIFEST,
    }
