"""The prune audit on images small enough to follow by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.hooks import PruneAuditHook
from cropr_mm.inspection.audit.audit_report import format_audit, plot_audit, sized_precision
from cropr_mm.inspection.audit.ground_truth import check_meta_keys, objects_of, records_of, view_of
from cropr_mm.inspection.audit.lost_objects import (
    ImageAudit,
    Objects,
    View,
    audit_image,
    seen_by_block,
    summarize_audit,
)

# An image of 60 x 40 pixels, halved to 30 x 20 and padded to 32 x 24: 4 x 3 patches of 8 pixels.
SCALE, RESIZED = (0.5, 0.5), (20, 30)


def seen() -> np.ndarray:
    """Block 0 sees all patches, block 1 all but (0, 1) and (1, 0), block 2 only (2, 3)."""
    patches = np.ones((3, 3, 4), bool)
    patches[1, 0, 1] = patches[1, 1, 0] = False
    patches[2] = False
    patches[2, 2, 3] = True
    return patches


def objects(masks: np.ndarray | None = None) -> Objects:
    """A box that becomes x 6 to 18, y 4 to 12: 12 x 8 pixels in 3 x 2 patches."""
    return Objects(np.array([[12.0, 8, 36, 24]]), np.array([0]), np.array([384.0]), masks)


# Mirrored it reaches from x 12 to 24 or from y 8 to 16; the second row of its patches is then
# row 1 alone.
@pytest.mark.parametrize(
    ("flips", "pruned"),
    [
        ((False, False), 8 * 4 + 2 * 4),
        ((True, False), 4 * 4),
        ((False, True), 2 * 8),
        ((True, True), 0),
    ],
)
def test_share_of_a_box_is_its_area_in_patches_that_are_seen(
    flips: tuple[bool, bool], pruned: int
) -> None:
    audit = audit_image(seen(), objects(), View(SCALE, RESIZED, flips, 8))
    np.testing.assert_allclose(audit.box_shares, [[1, 1 - pruned / 96, 0]])
    assert audit.box_shares[0, 0] == 1, "exactly"
    assert audit.box_shares[0, 2] == 0, "exactly: that is what lost means"
    assert np.isnan(audit.mask_shares).all()
    assert audit.pixels.tolist() == [0]
    assert audit.patches.tolist() == [[12, 10, 1]]


# 2 x 4 pixels whose centers come to x 7.25, 7.75, 8.25, 8.75: half in each of two patches of row 0.
@pytest.mark.parametrize(
    ("flips", "share"),
    [
        ((False, False), 0.5),  # (0, 0) is there and (0, 1) is not
        ((True, False), 1.0),  # x 21.25 to 22.75: all in column 2
        ((False, True), 0.5),  # y 15.25 and 15.75: row 1, of which column 0 is not there
    ],
)
def test_share_of_a_mask_is_by_its_original_pixels(flips: tuple[bool, bool], share: float) -> None:
    masks = np.zeros((1, 40, 60), bool)
    masks[0, 8:10, 14:18] = True
    audit = audit_image(seen(), objects(masks), View(SCALE, RESIZED, flips, 8))
    assert audit.mask_shares[0].tolist() == [1, share, 0]
    assert audit.pixels.tolist() == [8]


def test_a_box_that_ends_at_a_patch_does_not_touch_the_next() -> None:
    patches = np.array([[[False, True]]])
    # 3 * (8 / 3) is 8 but for rounding, and so is the end of a box beyond the image.
    for box in ([0.0, 0, 3 + 1e-9, 3], [-4.0, 0, 3, 3]):
        one = Objects(np.array([box]), np.array([0]), np.array([9.0]))
        audit = audit_image(patches, one, View((8 / 3, 8 / 3), (8, 16), (False, False), 8))
        assert audit.box_shares.tolist() == [[0.0]]


def test_a_box_without_area_in_its_image_counts_nowhere_but_is_told() -> None:
    boxes = np.array([[12.0, 8, 36, 24], [12, 8, 12, 24], [70, 8, 90, 24]])
    three = Objects(boxes, np.array([0, 0, 1]), np.array([384.0, 384, 384]))
    audit = audit_image(seen(), three, View(SCALE, RESIZED, (False, False), 8))
    assert np.isnan(audit.box_shares).all(1).tolist() == [False, True, True]
    summary = summarize_audit([audit], ("cat", "dog"))
    assert (summary["all"]["boxes"], summary["all"]["boxes_left_out"]) == (1, 2)
    assert summary["all"]["boxes_lost"] == [0, 0, 1], "of the one that has an area"
    assert summary["class"]["dog"]["boxes_lost"] is None
    text = format_audit(record() | dict(audit=summary))
    assert "left out: 2 boxes without area inside their image" in text
    assert "left out" not in format_audit(record())
    nothing = ImageAudit(*(field[1:] for field in audit[:-1]), audit.patches)
    with pytest.raises(ValueError, match=r"boxes with an area inside their image .* none in 1"):
        summarize_audit([nothing], ("cat", "dog"))


def test_an_image_larger_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"within 3x4 patches of 8 pixels, got 25x30"):
        audit_image(seen(), objects(), View(SCALE, (25, 30), (False, False), 8))


def test_blocks_see_a_patch_up_to_where_it_left() -> None:
    left = torch.tensor([[[-1, 0], [1, 3]]])
    sites = {0: "after", 1: "between", 3: "before"}
    expected = {
        (0, 0): [True, True, True, True],
        (0, 1): [True, False, False, False],
        (1, 0): [True, True, False, False],
        (1, 1): [True, True, True, False],
    }
    for num_restored in (0, 1, 2):
        patches = seen_by_block(left, depth=4, sites=sites, num_restored=num_restored)
        assert patches.shape == (1, 4, 2, 2)
        for (row, column), blocks in expected.items():
            expected_blocks = [*blocks[: 4 - num_restored], *[True] * num_restored]
            assert patches[0, :, row, column].tolist() == expected_blocks


def three_objects() -> list[ImageAudit]:
    """A small and a large cat in one image, a large dog without mask in another, two blocks."""
    nan = float("nan")
    cats = ImageAudit(
        labels=np.array([0, 0]),
        areas=np.array([1023.0, 9217.0]),
        box_shares=np.array([[1.0, 0.0], [1.0, 0.5]]),
        mask_shares=np.array([[1.0, 0.0], [1.0, 0.75]]),
        pixels=np.array([100, 300]),
        patches=np.array([[12, 6]]),
    )
    dog = ImageAudit(
        labels=np.array([1]),
        areas=np.array([1e5]),
        box_shares=np.array([[1.0, 0.9]]),
        mask_shares=np.array([[nan, nan]]),
        pixels=np.array([0]),
        patches=np.array([[20, 7]]),
    )
    return [cats, dog]


def test_groups_by_size_and_class() -> None:
    summary = summarize_audit(three_objects(), ("cat", "dog", "bird"))
    assert summary["size"]["small"] == dict(
        boxes=1,
        boxes_left_out=0,
        masks=1,
        boxes_lost=[0, 1],
        box_area_pruned=[0, 1],
        masks_lost=[0, 1],
        mask_pixels_pruned=[0, 1],
    )
    assert summary["size"]["medium"]["boxes"] == 0
    assert summary["size"]["medium"]["boxes_lost"] is None
    large = summary["size"]["large"]
    assert (large["boxes"], large["masks"]) == (2, 1)
    assert large["box_area_pruned"] == pytest.approx([0, (0.5 + 0.1) / 2])
    assert large["mask_pixels_pruned"] == [0, 0.25]
    assert set(summary["class"]) == {"cat", "dog"}
    assert summary["class"]["dog"]["mask_pixels_pruned"] is None
    assert summary["all"]["boxes_lost"] == pytest.approx([0, 1 / 3])
    assert summary["all"]["mask_pixels_pruned"] == pytest.approx([0, (100 + 75) / 400])


def test_images_without_objects_are_named() -> None:
    nothing = Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    audit = audit_image(seen(), nothing, View(SCALE, RESIZED, (False, False), 8))
    assert audit.box_shares.shape == (0, 3)
    with pytest.raises(ValueError, match="none in 2 images"):
        summarize_audit([audit, audit], ("cat",))
    assert summarize_audit([audit, *_of_three_blocks()], ("cat", "dog"))["all"]["boxes"] == 1


def _of_three_blocks() -> list[ImageAudit]:
    return [audit_image(seen(), objects(), View(SCALE, RESIZED, (False, False), 8))]


def test_size_groups_are_those_of_coco() -> None:
    areas = np.array([1.0, 32**2 - 1, 32**2, 96**2 - 1, 96**2, 96**2 + 1])
    shares, ones = np.ones((6, 1)), np.ones(6, int)
    image = ImageAudit(ones - 1, areas, shares, shares, ones, np.ones((1, 1), int))
    summary = summarize_audit([image], ("cat",))
    groups = COCOeval(iouType="bbox").params
    for label, (least, most) in zip(groups.areaRngLbl[1:], groups.areaRng[1:], strict=True):
        members = ((areas >= least) & (areas <= most)).sum()  # as COCOeval.evaluateImg has it
        assert summary["size"][label]["boxes"] == members


def info(*instances: dict[str, Any]) -> dict[str, Any]:
    return dict(height=10, width=20, img_path="a.png", instances=list(instances))


def test_ground_truth_is_read_from_records_without_crowds() -> None:
    square = [[2.0, 1, 8, 1, 8, 5, 2, 5]]
    counted = dict(size=[10, 20], counts=[0, 10, 190])  # the first column, uncompressed
    packed = coco_mask.encode(np.asfortranarray(np.eye(10, 20, dtype=np.uint8)))
    result = objects_of(
        info(
            dict(bbox=[2, 1, 8, 5], bbox_label=3, mask=square, ignore_flag=0),
            dict(bbox=[0, 0, 1, 10], bbox_label=1, mask=counted, ignore_flag=1),
            dict(bbox=[0, 0, 1, 10], bbox_label=1, mask=counted),
            dict(bbox=[0, 0, 9, 9], bbox_label=2, mask=packed),
            dict(bbox=[0, 0, 2, 3], bbox_label=0),
        )
    )
    assert result.labels.tolist() == [3, 1, 2, 0]
    assert result.areas.tolist() == [24, 10, 10, 6]
    assert result.masks[0, 1:5, 2:8].all()
    assert result.masks[0].sum() == 24
    assert result.masks[1, :, 0].all()
    assert not result.masks[3].any()
    assert objects_of(info(dict(bbox=[0, 0, 2, 3], bbox_label=0))).masks is None
    assert objects_of(info()).boxes.shape == (0, 4)


class Dataset:
    """Two images of a COCO dataset of mmdet, whose records have no areas."""

    backend_args = None

    def __init__(self, folder: Path) -> None:
        self.cat2label: dict[int, int] | None = {7: 0}
        self.ann_file = str(folder / "instances.json")
        boxes = {1: [0.1, 0.2, 4.0, 5.0], 2: [0.1, 0.2, 4.0, 5.0]}
        annotations = [
            dict(image_id=image, category_id=7, bbox=box, area=11.5 * image)
            for image, box in boxes.items()
        ]
        annotations.append(annotations[0] | dict(category_id=8, area=1.0))
        Path(self.ann_file).write_text(json.dumps(dict(annotations=annotations)))
        self.read: list[int] = []

    def __len__(self) -> int:
        return 2

    def get_data_info(self, i: int) -> dict[str, Any]:
        self.read.append(i)
        instance = dict(bbox=[0.1, 0.2, 0.1 + 4.0, 0.2 + 5.0], bbox_label=0)
        return info(instance) | dict(img_id=i + 1, img_path=f"{i}.png")


def test_areas_are_those_of_the_annotations_and_records_are_read_once(tmp_path: Path) -> None:
    dataset = Dataset(tmp_path)
    records = records_of(dataset)
    assert dataset.read == [0, 1]
    assert objects_of(records["0.png"]).areas.tolist() == [11.5], "the box has 20"
    assert objects_of(records["1.png"]).areas.tolist() == [23.0]
    dataset.cat2label = None  # as of a dataset that is not COCO's
    assert objects_of(records_of(dataset)["0.png"]).areas == pytest.approx([20])


@pytest.mark.parametrize("record", [dict(img_path="a.png"), info(dict(keypoints=[]))])
def test_records_without_boxes_are_named(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="records have 'instances' with 'bbox'"):
        objects_of(record)


def test_view_follows_the_pipeline() -> None:
    meta = dict(ori_shape=(40, 60), img_shape=(20, 30), scale_factor=(0.5, 0.5))
    assert view_of(meta, 8) == View((0.5, 0.5), (20, 30), (False, False), 8)
    assert view_of(meta | dict(flip=True, flip_direction="diagonal"), 8).flips == (True, True)
    assert view_of(dict(ori_shape=(40, 60), img_shape=(40, 60)), 8).scale == (1.0, 1.0)
    with pytest.raises(ValueError, match=r"40x60 pixels that became 16x16 at scale_factor \(0.5"):
        view_of(meta | dict(img_shape=(16, 16)), 8)
    with pytest.raises(ValueError, match="expected ori_shape and img_shape among the meta_keys"):
        view_of(dict(img_path="a.png"), 8)


def resized(results: dict[str, Any]) -> dict[str, Any]:
    return results | dict(ori_shape=(2, 2), img_shape=(1, 1), scale_factor=(0.5, 0.5))


def test_a_meta_key_that_the_pipeline_leaves_out_is_named() -> None:
    class PackDetInputs:
        meta_keys = ("img_path", "ori_shape", "img_shape", "scale_factor")

    check_meta_keys([resized, PackDetInputs()], info())
    for missing in PackDetInputs.meta_keys:
        fewer = PackDetInputs()
        fewer.meta_keys = tuple(key for key in PackDetInputs.meta_keys if key != missing)
        with pytest.raises(ValueError, match=f"reads {missing} .* meta_keys of PackDetInputs"):
            check_meta_keys([resized, fewer], info())
    mirrored = [resized, lambda results: results | dict(flip=True, flip_direction="horizontal")]
    with pytest.raises(ValueError, match="reads flip, flip_direction of each data sample"):
        check_meta_keys([*mirrored, PackDetInputs()], info())
    with pytest.raises(ValueError, match=r"another transform that has meta_keys, got \['function"):
        check_meta_keys([resized], info())


def record() -> dict[str, Any]:
    metrics = {"coco/bbox_mAP": 0.25, "coco/bbox_mAP_s": 0.125, "coco/bbox_mAP_m": -1.0}
    return dict(
        images=2,
        sizes_from="area of the annotation",
        ap=sized_precision(metrics),
        audit=summarize_audit(three_objects(), ("cat", "dog")),
    )


def test_table_stands_beside_the_precision_of_the_same_test() -> None:
    assert record()["ap"]["small"] == {"AP box": 0.125, "AP mask": None}
    assert record()["ap"]["medium"]["AP box"] is None
    lines = format_audit(record()).splitlines()
    assert lines[0].startswith("Prune audit of 3 objects in 2 images")
    assert lines[0].endswith("(area of the annotation)")
    assert [line.split() for line in lines[1:5]] == [
        ["patch", "tokens", "of", "block", "1", "2"],
        ["mean", "16", "6"],
        ["least", "12", "6"],
        ["most", "20", "7"],
    ]
    assert [line.split() for line in lines[6:11]] == [
        ["boxes", "AP", "box", "block", "2"],
        ["small", "1", "12.5", "100.0"],
        ["medium", "0", "-", "-"],
        ["large", "2", "-", "0.0"],
        ["all", "3", "25.0", "33.3"],
    ]
    assert lines[-2].split() == ["cat", "2", "75.0"]
    assert lines[-1].split() == ["dog", "1", "10.0"]


def test_picture_shows_survival_by_size(figures: list[Figure], tmp_path: Path) -> None:
    plot_audit(record(), tmp_path / "audit.png")
    assert cv2.imread(str(tmp_path / "audit.png")).std() > 0
    ((boxes, masks),) = (figure.axes for figure in figures)
    sizes = record()["audit"]["size"]
    for axes, share, count in (
        (boxes, "boxes_lost", "boxes"),
        (masks, "mask_pixels_pruned", "masks"),
    ):
        shown = {name: group for name, group in sizes.items() if group[share] is not None}
        assert [line.get_label() for line in axes.lines] == [
            f"{name} ({group[count]})" for name, group in shown.items()
        ]
        for line, group in zip(axes.lines, shown.values(), strict=True):
            assert line.get_xdata().tolist() == [1, 2], "blocks count from 1"
            expected = [100 * (1 - value) for value in group[share]]
            assert line.get_ydata().tolist() == pytest.approx(expected)
    assert boxes.lines[0].get_ydata().tolist() == [100, 0], "the small box is lost after block 1"


def test_methods_that_merge_are_not_audited() -> None:
    backbone = CroprViT(
        dict(embed_dim=16, depth=2, num_heads=2),
        img_size=32,
        patch_size=8,
        reducer=dict(type="cropr_mm.ToMe"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 9}),
    )
    message = "the audit expects a method that drops tokens, got ToMe at block 1: it merges them"
    with pytest.raises(ValueError, match=message):
        PruneAuditHook().check(SimpleNamespace(model=nn.Sequential(backbone)))
