"""Masks of a COCO file that cannot be drawn, or have no pixel, are counted and named."""

import warnings
from typing import Any

import numpy as np
import pytest

from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.preflight.findings import Findings
from cropr_mm.engine.preflight.instance_masks import check_instance_masks

mask_utils = pytest.importorskip("pycocotools.mask")
NAN, INFINITY = float("nan"), float("inf")
GOOD = [[1, 1, 4, 1, 4.5, 5]]
RUNS = [8, 2, 62]


def said(*masks: Any) -> str:
    """Errors and warnings about masks of an image of 9 x 8 pixels (width x height)."""
    findings = Findings("train_dataloader", "a.json")
    annotations = [dict(id=i, image_id=7, segmentation=mask) for i, mask in enumerate(masks)]
    check_instance_masks(annotations, {7: (9, 8)}, findings)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            findings.finish()
        except SetupError as error:
            return f"error: {error}"
    return "\n".join(str(one.message) for one in warned)


def run_length(**changes: Any) -> dict[str, Any]:
    return dict(size=[8, 9], counts=RUNS) | changes


def compressed(pixels: int) -> dict[str, Any]:
    mask = np.zeros((8, 9), np.uint8, order="F")
    mask[:pixels, 2] = 1
    whole = mask_utils.encode(mask)
    return dict(size=[8, 9], counts=whole["counts"].decode())


def test_good_masks_pass() -> None:
    assert said(GOOD, GOOD * 2, run_length(), compressed(3), [[0, 0, 9, 0, 9, 8, 0, 8]]) == ""
    assert said() == ""


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("mask", "1 annotation has a 'segmentation' that is no mask (id 1)"),
        (dict(size=[8, 9]), "that is no mask"),
        (dict(counts=RUNS, size=None), "that is no mask"),
        ([1, 1, 4, 1, 4, 5], "1 annotation has a polygon that is no list of numbers (id 1)"),
        ([["1", 1, 4, 1, 4, 5]], "no list of numbers (id 1)"),
        ([*GOOD, [1, 1, 4, 1, 4, None]], "no list of numbers (id 1)"),
        ([*GOOD, [NAN, 1, 4, 1, 4, 5]], "1 annotation has a polygon that is not finite (id 1)"),
        ([[1, 1, INFINITY, 1, 4, 5]], "not finite (id 1)"),
        ([[1, 1, 1e9, 1, 4, 5]], "1 annotation has a polygon far outside the image (id 1)"),
        (run_length(size=[9, 8]), "another size than the image (id 1: [9, 8] for [8, 9])"),
        (run_length(counts=[8, 2]), "1 annotation has damaged run lengths (id 1)"),
        (run_length(counts=[8, -2, 66]), "damaged run lengths (id 1)"),
        (run_length(counts=["8", 2, 62]), "damaged run lengths (id 1)"),
        (run_length(counts=""), "damaged run lengths (id 1)"),
        (run_length(counts=compressed(3)["counts"][:-2]), "damaged run lengths (id 1)"),
        (run_length(counts="\x01~é"), "damaged run lengths (id 1)"),
    ],
)
def test_masks_that_cannot_be_drawn_are_errors(mask: Any, message: str) -> None:
    text = said(GOOD, mask, compressed(2), run_length())
    assert text.startswith("error: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "mask",
    [
        [[1, 1, 4, 4]],
        [[1, 1], [1, 1, 4, 4, 5]],
        [[1, 1, 4, 1, 8, 1]],
        [],
        run_length(counts=[72]),
        compressed(0),
    ],
)
def test_masks_without_pixels_are_counted(mask: Any) -> None:
    (line,) = said(GOOD, mask, run_length()).splitlines()
    assert "1 annotation has a mask without pixels (id 1)" in line
    assert said(mask, mask).startswith("error: ")
    assert "2 annotations have a mask without pixels (id 0, id 1)" in said(mask, mask)
    assert said([*GOOD, *mask] if isinstance(mask, list) else GOOD) == ""


def test_two_points_are_what_mmdet_ignores() -> None:
    transforms = pytest.importorskip("mmdet.datasets.transforms")
    loader = transforms.LoadAnnotations(with_mask=True)
    for mask, ignored in ((GOOD, False), ([[1, 1, 4, 4]], True), ([[1, 1, 4, 1, 4]], True)):
        instance = dict(bbox=[0, 0, 4, 4], bbox_label=0, ignore_flag=0, mask=mask)
        loaded = loader(dict(instances=[instance], ori_shape=(8, 9)))
        assert loaded["gt_ignore_flags"].tolist() == [ignored]
        assert ("without pixels" in said(mask, GOOD)) == ignored
