"""Data sets in the layouts of their publishers: files of three images each."""

import json
from pathlib import Path

import pytest

from cropr_mm.registry import DATASETS


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def nabirds(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        images="a-1 0817/x.jpg\nb-2 0295/y.jpg\nc-3 0817/z.jpg\n",
        image_class_labels="a-1 817\nb-2 295\nc-3 817\n",
        train_test_split="a-1 1\nb-2 1\nc-3 0\n",
        classes="0 Birds\n295 American Black Duck\n817 Oak Titmouse\n",
    )


@pytest.fixture
def nuswide(tmp_path: Path) -> Path:
    labels = "Groundtruth__TrainTestLabels__Labels_"
    return write(
        tmp_path,
        ImageList__TrainImagelist="actor\\1.jpg\nbird\\2.jpg\nsky\\3.jpg\n",
        ConceptsList__Concepts81="animal\nsky\n",
        **{f"{labels}animal_Train": "0\n1\n0\n", f"{labels}sky_Train": "0 \n1 \n1 \n"},
    )


def build(kind: str, root: Path, split: str = "train", **more: str) -> list[dict]:
    return DATASETS.build(dict(type=f"cropr_mm.{kind}", data_root=str(root), split=split, **more))


def test_classes_of_nabirds_count_without_gaps(nabirds: Path) -> None:
    train, test = (build("NABirdsDataset", nabirds, split) for split in ("train", "test"))
    assert train.metainfo["classes"] == ("American Black Duck", "Oak Titmouse")
    assert [train[i]["gt_label"] for i in range(2)] == [1, 0]
    assert (len(test), test[0]["gt_label"]) == (1, 1)
    assert test[0]["img_path"] == str(nabirds / "images/0817/z.jpg")
    assert train.get_cat_ids(0) == [1]


def test_concepts_of_nus_wide_are_sets(nuswide: Path) -> None:
    train = build("NUSWideDataset", nuswide)
    assert train.metainfo["classes"] == ("animal", "sky")
    assert [train.get_cat_ids(i) for i in range(3)] == [[], [0, 1], [1]]
    assert train[1]["img_path"] == str(nuswide / "Flickr/bird/2.jpg")


def test_one_class_an_image_is_an_int(tmp_path: Path) -> None:
    content = dict(
        images=[dict(id=i, file_name=f"train_val2019/Birds/{i}.jpg") for i in range(2)],
        annotations=[dict(id=i, image_id=i, category_id=1 - i) for i in range(2)],
        categories=[dict(id=0, name="first"), dict(id=1, name="second")],
    )
    file = tmp_path / "train2019.json"
    settings = dict(type="cropr_mm.CocoSingleLabelDataset", data_root=str(tmp_path))
    file.write_text(json.dumps(content))
    dataset = DATASETS.build(dict(settings, ann_file=file.name))
    assert [dataset[i]["gt_label"] for i in range(2)] == [1, 0]
    assert dataset[0]["img_path"].endswith("train_val2019/Birds/0.jpg")
    assert dataset.get_cat_ids(1) == [0]

    content["annotations"].append(dict(id=2, image_id=0, category_id=0))
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one class for each image, got 2 for .*0\.jpg"):
        DATASETS.build(dict(settings, ann_file=file.name))


def test_files_that_do_not_fit_are_named(nabirds: Path) -> None:
    with pytest.raises(ValueError, match="expected split train or test, got 'val'"):
        build("NABirdsDataset", nabirds, "val")
    write(nabirds, train_test_split="a-1 1\n")
    with pytest.raises(ValueError, match="a split for each image, got none for 2, such as b-2"):
        build("NABirdsDataset", nabirds)
    write(nabirds, images="a-1\n")
    with pytest.raises(ValueError, match=r"images\.txt: expected lines of two entries, got 'a-1'"):
        build("NABirdsDataset", nabirds)


def test_a_list_of_labels_of_another_length_is_named(nuswide: Path) -> None:
    write(nuswide, Groundtruth__TrainTestLabels__Labels_sky_Train="1\n")
    with pytest.raises(ValueError, match=r"Labels_sky_Train\.txt: expected a line for each of 3"):
        build("NUSWideDataset", nuswide)
