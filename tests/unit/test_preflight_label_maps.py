"""Label maps that do not fit classes or images, and heads that do not fit the encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from cropr_mm.engine.preflight import SetupError, check_channels, check_label_maps

pytest.importorskip("mmseg.datasets")
TRAIN = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=(4, 4)),
    dict(type="PackSegInputs"),
]
TEST = [TRAIN[0], dict(type="Resize", scale=(32, 32)), TRAIN[1], TRAIN[3]]


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Any]:
    """Builds a dataset of three images with two classes; the last has the given label map."""
    init_default_scope("mmseg")

    def build(last: np.ndarray, **changes: Any) -> Any:
        for folder in ("images", "maps"):
            (tmp_path / folder).mkdir()
        good = np.array([[0, 1, 255]] * 8, np.uint8).repeat(4, axis=1)  # (8, 12)
        for i, labels in enumerate((good, good, last)):
            cv2.imwrite(str(tmp_path / f"images/{i}.jpg"), np.zeros((8, 12, 3), np.uint8))
            cv2.imwrite(str(tmp_path / f"maps/{i}.png"), labels)
        cfg = dict(
            type="mmseg.BaseSegDataset",
            data_root=str(tmp_path),
            data_prefix=dict(img_path="images", seg_map_path="maps"),
            metainfo=dict(classes=("road", "sky")),
            pipeline=TRAIN,
        )
        return DATASETS.build(cfg | changes)

    return build


@pytest.mark.parametrize("pipeline", [TRAIN, TEST, TRAIN[:1]])
def test_good_maps_pass(pipeline: list[dict], dataset: Callable[..., Any]) -> None:
    check_label_maps(dataset(np.ones((8, 12), np.uint8), pipeline=pipeline), "train_dataloader")


@pytest.mark.parametrize("pipeline", [TRAIN, TEST])
def test_labels_outside_the_classes_are_named(
    pipeline: list[dict], dataset: Callable[..., Any]
) -> None:
    invalid = np.ones((8, 12), np.uint8)
    invalid[3, 5], invalid[4, 5] = 2, 7
    message = (
        r"train_dataloader: .* \[0, 1\], those of its 2 classes, or 255 .* \[2, 7\] in .*2\.png"
    )
    with pytest.raises(SetupError, match=message):
        check_label_maps(dataset(invalid, pipeline=pipeline), "train_dataloader")


@pytest.mark.parametrize("pipeline", [TRAIN, TEST])
def test_map_of_another_size_is_named(pipeline: list[dict], dataset: Callable[..., Any]) -> None:
    with pytest.raises(SetupError, match=r"size 8x12 \(height, width\), got 12x8 in .*2\.png"):
        check_label_maps(dataset(np.ones((12, 8), np.uint8), pipeline=pipeline), "val_dataloader")


def test_colors_instead_of_labels_are_named(dataset: Callable[..., Any]) -> None:
    with pytest.raises(SetupError, match=r"8x12 \(height, width\), got 8x12x3"):
        check_label_maps(dataset(np.ones((8, 12, 3), np.uint8)), "train_dataloader")


def test_missing_map_is_named(dataset: Callable[..., Any], tmp_path: Path) -> None:
    data = dataset(np.ones((8, 12), np.uint8))
    (tmp_path / "maps/1.png").unlink()
    with pytest.raises(SetupError, match=r"train_dataloader: .*maps/1\.png"):
        check_label_maps(data, "train_dataloader")


def test_labels_that_the_dataset_itself_changes_are_judged_after_that(
    dataset: Callable[..., Any],
) -> None:
    data = dataset(np.full((8, 12), 2, np.uint8), reduce_zero_label=True)  # 0 is 255, 2 is 1
    check_label_maps(data, "train_dataloader")


def test_a_class_that_no_map_has_is_named(dataset: Callable[..., Any]) -> None:
    data = dataset(np.ones((8, 12), np.uint8), metainfo=dict(classes=("road", "sky", "sea")))
    with pytest.warns(UserWarning, match=r"1 class is in none of the 3 .* looked at: 'sea' \(2\)"):
        assert check_label_maps(data, "train_dataloader") == {0, 1, 255}


def test_masks_of_0_and_255_are_named(dataset: Callable[..., Any], tmp_path: Path) -> None:
    data = dataset(np.ones((8, 12), np.uint8))
    for i, labels in enumerate(([0, 255], [0, 0], [0, 255])):
        cv2.imwrite(str(tmp_path / f"maps/{i}.png"), np.array([labels * 6] * 8, np.uint8))
    with pytest.raises(SetupError, match=r"'sky' \(label 1\) is in none .* 255, .* is in 2: are"):
        check_label_maps(data, "train_dataloader")
    cv2.imwrite(str(tmp_path / "maps/1.png"), np.ones((8, 12), np.uint8))
    assert check_label_maps(data, "train_dataloader") == {0, 1, 255}


def test_a_rare_class_is_looked_for_in_more_maps(
    dataset: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cropr_mm.engine.preflight.label_maps._NUM_READ", 2)  # first and last
    data = dataset(np.ones((8, 12), np.uint8))
    for i, labels in enumerate(([0, 255], [0, 1], [0, 255])):
        cv2.imwrite(str(tmp_path / f"maps/{i}.png"), np.array([labels * 6] * 8, np.uint8))
    assert check_label_maps(data, "train_dataloader") == {0, 1, 255}


@pytest.mark.parametrize("content", [b"", b"<html></html>"])
def test_a_damaged_map_is_named(
    content: bytes, dataset: Callable[..., Any], tmp_path: Path
) -> None:
    data = dataset(np.ones((8, 12), np.uint8))
    (tmp_path / "maps/1.png").write_bytes(content)
    with pytest.raises(SetupError, match=r"train_dataloader: LoadAnnotations .*maps/1\.png: it is"):
        check_label_maps(data, "train_dataloader")


@pytest.mark.parametrize("in_dataset", [False, True])
def test_labels_counted_from_1_in_the_pipeline_alone_are_named(
    in_dataset: bool, dataset: Callable[..., Any]
) -> None:
    pipeline = [TRAIN[0], dict(type="LoadAnnotations", reduce_zero_label=True)]
    data = dataset(np.ones((8, 12), np.uint8), pipeline=pipeline, reduce_zero_label=in_dataset)
    if in_dataset:
        with pytest.warns(UserWarning, match=r"'sky' \(1\)"):
            assert check_label_maps(data, "train_dataloader") == {0, 255}
        return
    with pytest.raises(SetupError, match="reduce_zero_label=True, but its dataset has False"):
        check_label_maps(data, "train_dataloader")


def test_datasets_inside_wrappers_are_looked_at(dataset: Callable[..., Any]) -> None:
    data = dataset(np.full((8, 12), 9, np.uint8))
    whole = DATASETS.build(dict(type="ConcatDataset", datasets=[data]))
    with pytest.raises(SetupError, match=r"got \[9\]"):
        check_label_maps(whole, "train_dataloader")


def test_other_datasets_pass() -> None:
    check_label_maps([1, 2, 3], "train_dataloader")


def segmenter(neck: dict | None = None, **head: Any) -> Any:
    """Two taps of 16 channels."""
    init_default_scope("mmseg")
    settings = dict(in_channels=16, in_index=1, channels=8, num_convs=1, num_classes=2)
    return MODELS.build(
        dict(
            type="mmseg.EncoderDecoder",
            data_preprocessor=dict(type="SegDataPreProcessor"),
            backbone=dict(
                type="cropr_mm.CroprViT",
                arch=dict(embed_dim=16, depth=2, num_heads=2, patch_size=8, img_size=32),
                out_indices=(0, 1),
            ),
            neck=neck,
            decode_head=dict(type="FCNHead", **(settings | head)),
        )
    )


LEVELS = dict(type="MultiLevelNeck", in_channels=[16, 16], out_channels=8, scales=[2, 1])


def test_heads_on_taps_of_the_encoder_pass() -> None:
    many = dict(in_channels=[16, 16], in_index=[0, 1])
    check_channels(segmenter())
    check_channels(segmenter(in_index=-1))
    check_channels(segmenter(**many, input_transform="resize_concat"))
    check_channels(segmenter(neck=LEVELS, in_channels=8))


def test_each_of_several_auxiliary_heads_is_looked_at() -> None:
    model = segmenter()
    model.auxiliary_head = nn.ModuleList([segmenter().decode_head, segmenter().decode_head])
    check_channels(model)
    model.auxiliary_head[1].in_channels = 8
    with pytest.raises(SetupError, match=r"auxiliary_head\.1 expects in_channels=8, .* has 16"):
        check_channels(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(in_channels=768), r"decode_head expects in_channels=768, .* has 16 channels"),
        (dict(in_index=3), r"decode_head reads output 3 .*only 2: set backbone\.out_indices"),
        (dict(neck=dict(LEVELS, in_channels=[16, 8])), r"neck expects in_channels=\[16, 8\]"),
        (
            dict(neck=dict(LEVELS, in_channels=[16] * 3, scales=[4, 2, 1])),
            r"neck reads output 2 .*only 2",
        ),
    ],
)
def test_head_or_neck_that_does_not_fit_is_named(changes: dict, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        check_channels(segmenter(**changes))


@pytest.mark.parametrize("out_type", ["avg_featmap", "raw"])
def test_a_segmenter_without_a_map_is_named(out_type: str) -> None:
    model = segmenter()
    model.backbone.out_type = out_type
    with pytest.raises(SetupError, match=f"FCNHead expects maps, .* out_type='{out_type}'"):
        check_channels(model)


def test_windows_of_a_test_that_do_not_fit_the_encoder_are_named() -> None:
    model = segmenter()
    model.test_cfg = dict(mode="slide", crop_size=(16, 32), stride=(8, 8))
    check_channels(model)
    model.test_cfg = dict(mode="slide", crop_size=(20, 32), stride=(8, 8))
    with pytest.raises(SetupError, match=r"crop_size=\(20, 32\) .* multiples of the patch size 8"):
        check_channels(model)


def test_maps_without_any_class_are_named(dataset: Callable[..., Any]) -> None:
    nothing = np.full((8, 12), 255, np.uint8)
    data = dataset(nothing)
    check_label_maps(data, "train_dataloader")  # one of three
    for i in range(3):
        cv2.imwrite(data.get_data_info(i)["seg_map_path"], nothing)
    with pytest.raises(SetupError, match=r"pixels of its 2 classes, got 3 label maps of 255"):
        check_label_maps(data, "train_dataloader")
