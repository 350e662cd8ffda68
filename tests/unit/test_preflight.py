"""Each mistake in the data is named before anything is built."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from torch import nn

from cropr_mm.engine.preflight import (
    SetupError,
    check_classes,
    check_data,
    check_evaluator,
    check_masks,
)

pytest.importorskip("mmdet")
NAMES = ("cat", "dog")


def content(**changes: Any) -> dict[str, Any]:
    """A COCO json with one image of a cat and a dog."""
    boxes = [
        dict(id=i, image_id=1, category_id=i, bbox=[0, 0, 4, 4], area=16, iscrowd=0) for i in (1, 2)
    ]
    whole = dict(
        images=[dict(id=1, file_name="1.png", width=8, height=8)],
        annotations=boxes,
        categories=[dict(id=i, name=name) for i, name in enumerate(NAMES, start=1)],
    )
    return whole | changes


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """Writes the data and returns their config; arguments replace entries of the dataset's."""
    init_default_scope("mmdet")
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/1.png"), np.zeros((8, 8, 3), np.uint8))

    def make(text: str | None = None, **changes: Any) -> Config:
        if text is not None:
            (tmp_path / "a.json").write_text(text)
        dataset = dict(
            type="CocoDataset",
            data_root=str(tmp_path),
            ann_file="a.json",
            data_prefix=dict(img="images/"),
            metainfo=dict(classes=NAMES),
        )
        return Config(dict(train_dataloader=dict(dataset=dataset | changes)))

    return make


def test_good_data_pass_in_every_wrapper(config: Callable[..., Config]) -> None:
    cfg = config(json.dumps(content()))
    check_data(cfg, ("train", "val"))
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type="RepeatDataset", times=2, dataset=dict(type="ConcatDataset", datasets=[inner])
    )
    check_data(cfg, ("train",))
    inner["ann_file"] = "none.json"
    with pytest.raises(SetupError, match=r"none\.json"):
        check_data(cfg, ("train",))


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (None, {}, r"train_dataloader: expected an annotation file, found none at .*a\.json"),
        ("", {}, r"a\.json is empty \(0 bytes\)"),
        ('{"images": [', {}, r"a\.json is not valid json"),
        ("[]", {}, r"expected lists 'images' and 'categories' in .*a\.json, got list"),
        (
            json.dumps(content()),
            dict(metainfo=dict(classes=("cat", "dgo", "bird"))),
            r"a\.json lacks 2 of the dataset's 3 classes \(dgo, bird\); it has cat, dog",
        ),
        (
            json.dumps(content()),
            dict(metainfo={}),
            r"lacks 78 of the dataset's 80 classes \(person",
        ),
        (
            json.dumps(content()),
            dict(metainfo=dict(classes=("dog", "cat"))),
            r"order of the json's categories.* expected cat, dog; got dog, cat",
        ),
        (json.dumps(content(images=[])), {}, r"at least one image, but .*a\.json lists none"),
        (
            json.dumps(content(annotations=[])),
            {},
            r"annotations of cat, dog, but .* has none of them \(0 annotations in all\)",
        ),
        (
            json.dumps(content(images=[dict(id=1, file_name="2.png", width=8, height=8)])),
            {},
            r"train_dataloader: .*a\.json: 1 image is missing \(.*images/2\.png\)",
        ),
        (
            json.dumps(content()),
            dict(data_prefix=dict(img="pictures/")),
            r"expected a folder for data_prefix 'img', found none at .*pictures/",
        ),
    ],
)
def test_mistake_is_named(
    text: str | None, changes: dict, message: str, config: Callable[..., Config]
) -> None:
    with pytest.raises(SetupError, match=message):
        check_data(config(text, **changes), ("train",))


def test_deliberate_subset_of_classes_passes_with_a_word(config: Callable[..., Config]) -> None:
    cfg = config(json.dumps(content()), metainfo=dict(classes=("dog",)))
    with pytest.warns(UserWarning, match=r"1 annotation of 1 category .* left out \(cat\)"):
        check_data(cfg, ("train",))


def test_test_data_without_annotations_pass(config: Callable[..., Config]) -> None:
    check_data(config(json.dumps(content(annotations=[])), test_mode=True), ("train",))


MASKS = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)


@pytest.mark.parametrize("metric", ["bbox", ["bbox", "segm"]])
@pytest.mark.parametrize("with_mask", [False, True])
def test_missing_masks_are_named_where_they_are_used(
    metric: Any, with_mask: bool, config: Callable[..., Config]
) -> None:
    cfg = config(json.dumps(content()), pipeline=[dict(MASKS, with_mask=with_mask)])
    cfg.train_evaluator = dict(type="CocoMetric", metric=metric)
    if metric == "bbox" and not with_mask:
        check_data(cfg, ("train",))
        return
    with pytest.raises(
        SetupError,
        match=r"train_dataloader: masks are loaded or scored, but 2 of 2 annotations in .*a\.json "
        r"have no segmentation \(the first is that of id 1\)",
    ):
        check_data(cfg, ("train",))
    boxes = [{**box, "segmentation": [[0, 0, 4, 0, 4, 4]]} for box in content()["annotations"]]
    (Path(cfg.train_dataloader.dataset.data_root) / "a.json").write_text(
        json.dumps(content(annotations=boxes))
    )
    check_data(cfg, ("train",))


def test_a_mask_head_needs_masks_that_are_loaded() -> None:
    model = nn.Module()
    model.with_mask = True
    for with_mask in (True, False):
        dataset = dict(type="CocoDataset", pipeline=[dict(MASKS, with_mask=with_mask)])
        wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
        cfg = Config(dict(train_dataloader=dict(dataset=wrapped)))
        if with_mask:
            check_masks(model, cfg)
    with pytest.raises(SetupError, match=r"has a mask head: .* with with_mask=True, got it with"):
        check_masks(model, cfg)
    model.with_mask = False
    check_masks(model, cfg)


def test_file_of_an_evaluator_is_looked_for(config: Callable[..., Config]) -> None:
    cfg = config(json.dumps(content()))
    cfg.train_evaluator = [dict(type="CocoMetric", ann_file="/nowhere/b.json")]
    with pytest.raises(SetupError, match=r"train_evaluator: .* none at /nowhere/b\.json"):
        check_data(cfg, ("train",))


def test_missing_split_file_of_a_segmentation_dataset_is_named(tmp_path: Path) -> None:
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    dataset = dict(type="BaseSegDataset", data_root=str(tmp_path), ann_file="train.txt")
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(SetupError, match=r"found none at .*train\.txt"):
        check_data(cfg, ("train",))


class Head(nn.Module):
    """Nothing but a number of classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class Dataset:
    """Nothing but class names."""

    metainfo = dict(classes=NAMES)  # noqa: RUF012


def test_heads_must_have_the_classes_of_the_dataset() -> None:
    model = nn.Module()
    model.rpn_head = Head(1)
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = nn.ModuleList([Head(2), Head(2)])
    check_classes(model, Dataset(), "train_dataloader")
    model.auxiliary_head = nn.ModuleList([Head(2)])
    check_classes(model, Dataset(), "train_dataloader")
    model.roi_head.bbox_head[1].num_classes = 80
    model.auxiliary_head[0].num_classes = 3
    with pytest.raises(
        SetupError,
        match=r"auxiliary_head\.0 has num_classes=3, roi_head\.bbox_head\.1 has num_classes=80, "
        r"but the dataset of train_dataloader has 2 classes \(cat, dog\); set num_classes=2",
    ):
        check_classes(model, Dataset(), "train_dataloader")


@pytest.mark.parametrize("things", [{}, dict(thing_classes=NAMES[:1])])
def test_heads_of_queries_have_things_and_stuff(things: dict) -> None:
    dataset = SimpleNamespace(metainfo=dict(classes=NAMES, **things))
    model = nn.ModuleDict(dict(panoptic_head=Head(2)))
    check_classes(model, dataset, "train_dataloader")
    model["panoptic_head"] = Head(3)
    with pytest.raises(SetupError, match="panoptic_head has num_classes=3, but"):
        check_classes(model, dataset, "train_dataloader")


def test_a_metric_on_another_files_classes_is_refused(config: Callable[..., Config]) -> None:
    """As where the data set was changed and its evaluator forgotten."""
    folder = Path(config(json.dumps(content())).train_dataloader.dataset.data_root)
    other = content(categories=[dict(id=1, name="cat"), dict(id=2, name="cow")])
    (folder / "other.json").write_text(json.dumps(other))
    dataset = SimpleNamespace(metainfo=dict(classes=NAMES))
    for file, classes in (("a.json", None), ("other.json", r"cat, dog; got categories cat, cow")):
        metric = dict(type="CocoMetric", ann_file=str(folder / file), metric="bbox")
        evaluator = Evaluator(metric)
        if classes is None:
            check_evaluator(evaluator, dataset, "val_evaluator")
        else:
            with pytest.raises(SetupError, match=rf"^val_evaluator\.ann_file .* {classes}$"):
                check_evaluator(evaluator, dataset, "val_evaluator")
    check_evaluator(Evaluator([]), dataset, "val_evaluator")


def test_more_ranks_than_classes_are_refused() -> None:
    pytest.importorskip("mmpretrain")
    init_default_scope("mmpretrain")
    dataset = SimpleNamespace(metainfo=dict(classes=NAMES))
    for topk in (1, (1, 2)):
        check_evaluator(Evaluator(dict(type="Accuracy", topk=topk)), dataset, "val_evaluator")
    with pytest.raises(SetupError, match=r"val_evaluator: .* up to 2, .* got \(1, 5\)"):
        check_evaluator(Evaluator(dict(type="Accuracy", topk=(1, 5))), dataset, "val_evaluator")
