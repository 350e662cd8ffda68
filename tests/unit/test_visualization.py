"""What a page of trained models shows: tokens by block, predictions as text, pictures."""

import base64
import json
import re
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from cropr_mm import CroprViT
from cropr_mm.inspection.token_record import TokenRecord, TokenRecorder
from cropr_mm.visualization.page import data_address, page_html
from cropr_mm.visualization.predictions import predicted, zoom_of
from cropr_mm.visualization.tokens import token_data

STEPS: dict[str, Any] = dict(
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 12, 1: 8}),
)
IMAGE = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
META = dict(classes=("cat", "<b>dog</b>", "bird"))


def encoder(**options: Any) -> CroprViT:
    arch = dict(embed_dim=16, depth=4, num_heads=2)
    return CroprViT(arch, img_size=32, patch_size=8, **options).eval()


def looked(backbone: CroprViT) -> tuple[dict[str, Any], TokenRecord]:
    with TokenRecorder(backbone, blocks=()) as recorder, torch.no_grad():
        backbone(torch.randn(1, 3, 32, 32))
    record = recorder.record()
    data = token_data(backbone, record)
    assert json.loads(json.dumps(data)) == {**data, "grid": list(data["grid"])}
    return data, record


def test_pruned_patches_name_the_step_at_which_they_left() -> None:
    fusion = dict(type="cropr_mm.LastLayerFusion")
    backbone = encoder(reducer=dict(type="cropr_mm.VariancePruner"), fusion=fusion, **STEPS)
    data, record = looked(backbone)
    assert record.left_after is not None
    steps = np.where(record.left_after[0] < 0, -1, record.left_after[0])  # blocks 0 and 1
    assert data["left"] == steps.tolist()
    assert sorted(data["left"]) == [-1] * 8 + [0] * 4 + [1] * 4
    assert [(s["block"], s["where"], s["first"]) for s in data["steps"]] == [
        (0, "after", 1),
        (1, "after", 2),
    ]
    assert (data["grid"], data["depth"], data["patch"]) == ((4, 4), 4, 8)
    assert data["back"] == 3
    assert data["clusters"] is None
    assert len({step["color"] for step in data["steps"]}) == 2


def test_steps_between_attention_and_mlp_are_seen_by_the_next_block() -> None:
    data, _ = looked(encoder(reducer=dict(type="cropr_mm.EViT"), **STEPS))
    assert [(s["where"], s["first"]) for s in data["steps"]] == [("in", 1), ("in", 2)]
    assert data["back"] is None


def test_clusters_are_named_by_their_smallest_patch() -> None:
    data, record = looked(encoder(reducer=dict(type="cropr_mm.ToMe"), **STEPS))
    assert data["left"] is None
    for names, count, block in zip(data["clusters"], (12, 8), (0, 1), strict=True):
        raw = record.clusters[block][0].tolist()
        assert names == [raw.index(name) for name in raw]
        assert len(set(names)) == count
    assert any(name < i for i, name in enumerate(data["clusters"][1]))


def test_patches_that_left_before_a_merge_are_in_no_cluster() -> None:
    backbone = encoder(reducer=dict(type="cropr_mm.ToMe"), **STEPS)
    _, record = looked(backbone)
    clusters = {block: names.copy() for block, names in record.clusters.items()}
    clusters[1][0, :3] = -1
    record = replace(record, clusters=clusters)
    assert token_data(backbone, record)["clusters"][1][:3] == [-1, -1, -1]


def test_methods_with_medoids_or_centers_are_drawn_as_what_they_do() -> None:
    kept, _ = looked(encoder(reducer=dict(type="cropr_mm.KMedoids"), **STEPS))
    assert kept["clusters"] is None
    assert kept["left"].count(-1) == 8
    merged, _ = looked(encoder(reducer=dict(type="cropr_mm.DPCKNN"), **STEPS))
    assert merged["left"] is None
    assert [len(set(names)) for names in merged["clusters"]] == [12, 8]


def test_dense_model_loses_nothing() -> None:
    data, _ = looked(encoder())
    assert data["left"] == [-1] * 16
    assert (data["steps"], data["back"], data["clusters"]) == ([], None, None)


def test_classifier_is_described_by_its_best_classes() -> None:
    sample = BaseDataElement()
    sample.pred_score = torch.tensor([0.1, 0.6, 0.2, 0.1])
    sample.pred_label = torch.tensor([1])
    picture, text = predicted(IMAGE, 12, sample, META, 0.3)
    assert picture is None
    names = [(line["text"], line["chosen"]) for line in text["lines"]]
    assert names[:2] == [("<b>dog</b>", True), ("bird", False)]
    assert ("class 3", False) in names
    assert text["lines"][0]["share"] == pytest.approx(0.6)


def test_several_predicted_classes_come_first() -> None:
    sample = BaseDataElement()
    sample.pred_score = torch.linspace(0, 1, 9)
    sample.pred_label = torch.tensor([0, 1, 2, 3, 4, 5])  # as another threshold would say
    lines = predicted(IMAGE, 12, sample, META, 0.3)[1]["lines"]
    assert [line["chosen"] for line in lines] == [True] * 6


def test_label_map_is_drawn_and_described_by_shares() -> None:
    pytest.importorskip("mmseg")
    sample = BaseDataElement()
    labels = torch.zeros(1, 32, 48, dtype=torch.int64)
    labels[:, :8] = 2
    sample.pred_sem_seg = PixelData(data=labels)
    meta = dict(META, palette=[[1, 2, 3], [4, 5, 6], [250, 0, 0]])
    picture, text = predicted(IMAGE, 12, sample, meta, 0.3)
    assert picture is not None
    assert picture.shape == (384, 576, 3)
    assert [(line["text"], line["share"]) for line in text["lines"]] == [
        ("cat", 0.75),
        ("bird", 0.25),
    ]
    assert text["lines"][1]["color"] == "rgb(250, 0, 0)"
    red = picture.astype(float).mean(axis=1)[:, 0]  # of each row
    assert red[:96].mean() > red[96:].mean() + 80
    without = predicted(IMAGE, 12, sample, {}, 0.3)[1]["lines"]
    assert [line["text"] for line in without] == ["class 0", "class 2"]


def test_detections_below_the_score_are_neither_drawn_nor_counted() -> None:
    pytest.importorskip("mmdet")
    sample = BaseDataElement()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4.0, 20.0, 20.0], [24.0, 4.0, 40.0, 20.0]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.2]),
    )
    black = np.zeros_like(IMAGE)
    picture, text = predicted(black, 12, sample, META, 0.3)
    assert text["title"] == "1 detection with a score of at least 0.3"
    assert picture is not None
    drawn = picture.any(axis=2).any(axis=0)  # of each column
    assert drawn[: 22 * 12].any()
    assert not drawn[23 * 12 :].any()


@pytest.mark.parametrize(("side", "zoom"), [(32, 12), (128, 3), (383, 2), (384, 1), (1536, 1)])
def test_small_images_are_enlarged(side: int, zoom: int) -> None:
    assert zoom_of(np.zeros((side, 2000, 3), np.uint8)) == zoom


@pytest.mark.parametrize(("side", "kind"), [(32, "png"), (600, "jpeg")])
def test_small_pictures_are_exact_and_large_ones_small(side: int, kind: str) -> None:
    image = np.full((side, side, 3), (200, 100, 50), np.uint8)
    head, _, content = data_address(image).partition(",")
    assert head == f"data:image/{kind};base64"
    back = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_allclose(back[..., ::-1], image, atol=0 if kind == "png" else 4)


def test_page_opens_no_address_and_no_text_ends_its_data() -> None:
    images = [{"name": "</script><img src=http://x.test>", "panels": []}]
    data = {"models": [], "images": images, "pictures": [], "costs": []}
    html = page_html(data)
    shown = re.search(r'<script id="data" type="application/json">(.*?)</script>', html)
    assert shown is not None
    assert json.loads(shown[1]) == data
    rest = html.replace(shown[1], "")
    assert not re.findall(r"https?:|//[a-z]+\.|url\(|@import|src=|@[A-Z]+@", rest)
    assert "default-src 'none'" in rest
