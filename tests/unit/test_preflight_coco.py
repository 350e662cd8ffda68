"""Each fault of a COCO file's entries and boxes is counted, with its first examples."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.boxes import check_boxes
from cropr_mm.engine.preflight.coco_entries import (
    SCORED,
    TRAINED,
    check_entries,
    check_references,
)
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.json_numbers import as_numbers
from cropr_mm.messages import counted

NAN, INFINITY = float("nan"), float("inf")


def content(number: int = 3) -> dict[str, Any]:
    """So many good boxes of one image."""
    box = dict(image_id=1, category_id=5, bbox=[0, 0, 4, 4.5], area=18, iscrowd=0)
    return dict(
        images=[dict(id=1, file_name="1.png", width=8, height=8)],
        categories=[dict(id=5, name="cat")],
        annotations=[dict(box, id=i) for i in range(number)],
    )


def errors(check: Callable[[Findings], object]) -> str:
    findings = Findings("train_dataloader", "a.json")
    check(findings)
    with pytest.raises(SetupError) as error:
        findings.finish()
    return str(error.value)


def warned(check: Callable[[Findings], object]) -> list[str]:
    findings = Findings("train_dataloader", "a.json")
    check(findings)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        findings.finish()
    return [str(one.message) for one in found]


def boxes(file: dict[str, Any]) -> Callable[[Findings], None]:
    return lambda findings: check_boxes(file["annotations"], {1: (8, 8)}, findings)


def test_counts_are_sentences() -> None:
    assert counted(1, "annotation", "has") == "1 annotation has"
    assert counted(3, "annotation", "has") == "3 annotations have"
    assert counted(0, "category", "is") == "0 categories are"
    assert counted(2, "image", "lies") == "2 images lie"
    assert counted(2, "box") == "2 boxes"


def test_findings_count_all_and_show_the_first() -> None:
    def note(findings: Findings) -> None:
        findings.error("box", "is no dict", [*"abcdefg"], "expected dicts")
        findings.error("image", "has no 'id'", [])
        findings.error("image", "has no 'width'", ["id 1"])
        findings.warn("image", "is gone", ["id 2"])

    assert errors(note) == (
        "train_dataloader: a.json: 7 boxes are no dict (a, b, c, d, e and 2 more); expected dicts"
        "\n  1 image has no 'width' (id 1)"
    )
    assert warned(lambda findings: findings.warn("image", "is gone", {"x": 2})) == [
        "train_dataloader: a.json: 2 images are gone ('x': 2 times)"
    ]


def test_good_entries_pass() -> None:
    file = content()

    def check(findings: Findings) -> None:
        check_entries(file, findings, SCORED)
        assert check_references(file, findings) == file["annotations"]
        boxes(file)(findings)

    assert warned(check) == []
    file["annotations"] = []
    assert warned(check) == []
    del file["annotations"]  # a list of images alone
    assert warned(lambda findings: check_entries(file, findings, SCORED)) == []


@pytest.mark.parametrize("noun", ["annotation", "image", "category"])
def test_each_missing_key_is_named(noun: str) -> None:
    kind = dict(annotation="annotations", image="images", category="categories")[noun]
    keys = dict(annotation=SCORED, image=("id", "file_name", "width", "height"))
    for key in keys.get(noun, ("id", "name")):
        for edit in (lambda e, k: e.pop(k), lambda e, k: e.update({k: None})):
            file = content()
            edit(file[kind][0], key)
            message = errors(lambda findings, f=file: check_entries(f, findings, SCORED))
            assert f"1 {noun} has no '{key}'" in message


def test_crowds_are_needed_by_metrics_only() -> None:
    file = content()
    for annotation in file["annotations"]:
        del annotation["iscrowd"]
    assert warned(lambda findings: check_entries(file, findings, TRAINED)) == []
    assert "3 annotations have no 'iscrowd' (id 0, id 1, id 2); add 0" in errors(
        lambda findings: check_entries(file, findings, SCORED)
    )


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("annotations", dict(id=0), "2 annotations have an id that is not unique (0: 2 times)"),
        ("annotations", dict(id=[0]), "1 annotation has a list or dict as 'id'"),
        ("annotations", dict(image_id={}), "1 annotation has a list or dict as 'image_id'"),
        ("images", dict(), "2 images have an id that is not unique (1: 2 times)"),
        ("images", dict(id=2, file_name=7), "1 image has no text as 'file_name' (id 2)"),
        ("images", dict(id=2, width="8"), "1 image has no positive number as 'width' (id 2: '8')"),
        ("images", dict(id=2, height=0), "1 image has no positive number as 'height' (id 2: 0)"),
        ("images", dict(id=2, height=INFINITY), "no positive number as 'height' (id 2: inf)"),
        ("categories", dict(id=6), "2 categories have a name that is not unique ('cat': 2 times)"),
        ("categories", dict(id=6, name=["cat"]), "1 category has no text as 'name' (id 6)"),
    ],
)
def test_values_that_cannot_be_are_named(kind: str, entry: dict, message: str) -> None:
    file = content()
    file[kind].append({**file[kind][0], **(dict(id=9) if kind == "annotations" else {}), **entry})
    assert message in errors(lambda findings: check_entries(file, findings, TRAINED))


@pytest.mark.parametrize("kind", ["annotations", "images", "categories"])
def test_entries_of_another_kind_are_named(kind: str) -> None:
    file = content()
    file[kind].append("7")
    assert "is no dict" in errors(lambda findings: check_entries(file, findings, TRAINED))
    file["annotations"] = {"1": file["annotations"][0]}
    assert "expected a list of annotations, got dict" in errors(
        lambda findings: check_entries(file, findings, TRAINED)
    )


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_references_to_nothing_are_counted(key: str) -> None:
    file = content()
    noun = key.removesuffix("_id")
    for i, other in ((0, 99), (1, "1")):
        file["annotations"][i][key] = other
    left = []
    (message,) = warned(lambda findings: left.extend(check_references(file, findings)))
    assert left == file["annotations"][2:]
    assert f"2 annotations have the {key} of no {noun} (99: 1 time, '1': 1 time)" in message
    file["annotations"][2][key] = 99
    message = errors(lambda findings: check_references(file, findings))
    assert "3 annotations have" in message
    assert "99: 2 times" in message


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (["0", 0, 4, 4], "1 annotation has no four numbers as 'bbox' (id 1: ['0', 0, 4, 4])"),
        ([0, 0, 4], "1 annotation has no four numbers as 'bbox' (id 1: [0, 0, 4])"),
        ([0, 0, 4, None], "no four numbers"),
        ([0, 0, 4, [4]], "no four numbers"),
        ([0, 0, 4, 10**400], "no four numbers"),
        ("0044", "no four numbers"),
        (4, "no four numbers"),
        ([0, NAN, 4, 4], "1 annotation has a 'bbox' that is not finite (id 1: [0, nan, 4, 4])"),
        ([0, 0, INFINITY, 4], "not finite (id 1: [0, 0, inf, 4])"),
        ([-INFINITY, 0, 4, 4], "not finite"),
    ],
)
def test_boxes_that_are_no_numbers_are_errors(box: Any, message: str) -> None:
    file = content()
    file["annotations"][1]["bbox"] = box
    assert message in errors(boxes(file))


def test_areas_and_crowds_are_numbers() -> None:
    for key, values in (("area", ("18", NAN, [18], INFINITY)), ("iscrowd", ("0", 2, NAN))):
        for value in values:
            file = content()
            file["annotations"][2][key] = value
            message = errors(boxes(file))
            assert f"as '{key}' (id 2: {value!r})" in message


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (dict(bbox=[1, 1, 0.9, 4]), "a box below 1 pixel"),
        (dict(bbox=[1, 1, 4, -4]), "a box below 1 pixel"),
        (dict(bbox=[8, 0, 4, 4]), "a box outside the image"),
        (dict(bbox=[0, -9, 4, 4]), "a box outside the image"),
        (dict(area=0), "an 'area' of 0 or less"),
    ],
)
def test_boxes_that_are_left_out_are_counted(changes: dict, fault: str) -> None:
    """Those that mmdet's data set drops, and no other."""
    file = content()
    file["annotations"][1].update(changes)
    (message,) = warned(boxes(file))
    assert f"1 annotation has {fault} (id 1: " in message
    assert message.endswith("; mmdet leaves out such boxes")
    dropped = _left_by_mmdet(file)
    assert dropped == [1]
    for annotation in file["annotations"]:
        annotation.update(changes)
    assert f"3 annotations have {fault}" in errors(boxes(file))


def _left_by_mmdet(file: dict[str, Any]) -> list[int]:
    coco = pytest.importorskip("mmdet.datasets.coco")
    dataset = coco.CocoDataset(
        lazy_init=True, metainfo=dict(classes=("cat",)), data_prefix=dict(img=""), pipeline=[]
    )
    dataset.cat_ids, dataset.cat2label = [5], {5: 0}
    image = {**file["images"][0], "img_id": 1}
    return [
        a["id"]
        for a in file["annotations"]
        if not dataset.parse_data_info(dict(raw_img_info=image, raw_ann_info=[a]))["instances"]
    ]


def test_boxes_over_the_edge_are_counted_but_for_rounding() -> None:
    file = content()
    for i, box in enumerate(([-1, 0, 4, 4], [4.5, 4.5, 4.5, 4.5], [4, 4, 8, 8])):
        file["annotations"][i]["bbox"] = box
    (message,) = warned(boxes(file))
    assert "1 annotation has a box that reaches over the edge of the image (id 2: " in message


def test_rows_at_fault_are_told_from_numbers() -> None:
    array, wrong = as_numbers([[1, 2.5], ["3", 4], [5], [6, 7]], 2)
    assert wrong.tolist() == [False, True, True, False]
    assert array.tolist() == [[1, 2.5], [0, 0], [0, 0], [6, 7]]
    assert as_numbers([["3", 4], [6, 7]], 2)[1].tolist() == [True, False]
    array, wrong = as_numbers([1, "2", 10**400, NAN])
    assert wrong.tolist() == [False, True, True, False]
    array, wrong = as_numbers([], 4)
    assert array.shape == (0, 4)
    assert wrong.shape == (0,)
    assert array.dtype == np.float64
