"""Demo data: deterministic, whole, and the same objects in all three kinds of annotation."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cropr_mm.datasets import CLASSES, DemoSettings, make_demo_data

SMALL = DemoSettings(num_train=12, num_val=6)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    make_demo_data(out, SMALL)
    return out


def test_two_runs_make_the_same_bytes(data: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path / "again", SMALL)
    assert digests(tmp_path / "again") == digests(data)


def test_another_seed_makes_other_images(data: Path, tmp_path: Path) -> None:
    make_demo_data(tmp_path / "other", DemoSettings(num_train=12, num_val=6, seed=1))
    image = "images/train/000000.png"
    assert (tmp_path / "other" / image).read_bytes() != (data / image).read_bytes()


def test_facts_agree_with_the_files(data: Path) -> None:
    facts = make_demo_data(data, SMALL)
    for split in ("train", "val"):
        content = json.loads((data / f"annotations/instances_{split}.json").read_text())
        assert facts[f"{split}_images"] == len(content["images"])
        assert facts[f"{split}_digits"] == len(content["annotations"]) > 0
    assert facts["files"] == len(digests(data)) - 1  # all but the manifest


def test_masks_boxes_semantic_maps_and_labels_agree(data: Path) -> None:
    coco = COCO(str(data / "annotations/instances_train.json"))
    labels = json.loads((data / "annotations/labels_train.json").read_text())
    counts = dict(
        line.split() for line in (data / "annotations/counts_train.txt").read_text().splitlines()
    )
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert labels["metainfo"]["classes"] == list(CLASSES)
    for image, entry in zip(coco.loadImgs(coco.getImgIds()), labels["data_list"], strict=True):
        name = image["file_name"]
        assert entry["img_path"] == name
        assert cv2.imread(str(data / "images/train" / name)).shape == (128, 128, 3)
        semantic = np.zeros((128, 128), np.uint8)
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        for annotation in annotations:
            mask = coco.annToMask(annotation).astype(bool)
            assert not semantic[mask].any(), "digits must not overlap"
            semantic[mask] = annotation["category_id"]
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns[0], rows[0])
            assert (x + width, y + height) == (columns[-1] + 1, rows[-1] + 1)
            assert annotation["area"] == mask.sum() == coco_mask.area(coco.annToRLE(annotation))
        stored = cv2.imread(str(data / "semantic/train" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, semantic)
        assert entry["gt_label"] == sorted({a["category_id"] - 1 for a in annotations})
        assert int(counts[name]) == len(annotations)


def test_digits_are_brighter_than_their_surroundings(data: Path) -> None:
    coco = COCO(str(data / "annotations/instances_train.json"))
    for annotation in coco.loadAnns(coco.getAnnIds()):
        image = cv2.imread(str(data / f"images/train/{annotation['image_id']:06d}.png"))
        mask = coco.annToMask(annotation)
        ring = cv2.dilate(mask, np.ones((17, 17))) - cv2.dilate(mask, np.ones((9, 9)))
        assert image[mask == 1].mean() > image[ring == 1].mean() + 20


def test_only_the_contrast_of_strokes_changes_with_it() -> None:
    from cropr_mm.datasets.demo_data import scenes

    settings = [DemoSettings(num_val=8, stroke_contrast=c) for c in (0.0, 30.0, 180.0)]
    for plain, soft, bright in zip(*(scenes("val", one) for one in settings), strict=True):
        assert all((a == b).all() for a, b in zip(soft.masks, bright.masks, strict=True))
        weak, strong = (
            np.abs(scene.image.astype(int) - plain.image).max() for scene in (soft, bright)
        )
        assert strong > 2 * weak > 0


def test_some_images_have_no_digit() -> None:
    from cropr_mm.datasets.demo_data import scenes

    counts = [len(scene.labels) for scene in scenes("val", DemoSettings(num_val=60))]
    assert 0 in counts
    assert max(counts) == 3


def test_a_second_call_writes_nothing(data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    make_demo_data(data, SMALL)
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


@pytest.mark.parametrize("damage", ["removed", "cut short", "no manifest"])
def test_damaged_data_is_made_anew(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "data"
    make_demo_data(out, SMALL)
    whole = digests(out)
    victim = out / ("manifest.json" if damage == "no manifest" else "images/val/000003.png")
    if damage == "cut short":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        victim.unlink()
    make_demo_data(out, SMALL)
    assert digests(out) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "no leftovers beside it"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cropr_mm.datasets.demo_data._write_json", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path / "data", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="to be empty or to hold demo data"):
        make_demo_data(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("settings", [dict(num_val=0), dict(digit_size=(30, 90))])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        DemoSettings(**settings)
