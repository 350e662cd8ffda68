"""Heads that do not fit the encoder, and labels that are no class, before training starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.engine.preflight import (
    SetupError,
    check_channels,
    check_classes,
    check_data,
    check_labels,
    check_model_config,
)

pytest.importorskip("mmpretrain")
ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8, img_size=32)


def classifier(in_channels: int = 16, num_classes: int = 2, **changes: Any) -> nn.Module:
    init_default_scope("mmpretrain")
    settings: dict[str, Any] = dict(out_type="avg_featmap", neck=None, preprocessor={}) | changes
    return MODELS.build(
        dict(
            type="mmpretrain.ImageClassifier",
            data_preprocessor=settings["preprocessor"],
            backbone=dict(type="cropr_mm.CroprViT", arch=ARCH, out_type=settings["out_type"]),
            neck=settings["neck"],
            head=dict(type="LinearClsHead", num_classes=num_classes, in_channels=in_channels),
        )
    )


def test_a_head_on_other_channels_is_named() -> None:
    check_channels(classifier())
    with pytest.raises(
        SetupError, match=r"head expects in_channels=768, .* has 16 channels; set head"
    ):
        check_channels(classifier(in_channels=768))


def test_a_linear_head_on_a_map_is_named_unless_a_neck_pools() -> None:
    check_channels(classifier(out_type="featmap", neck=dict(type="GlobalAveragePooling")))
    with pytest.raises(SetupError, match=r"LinearClsHead expects one vector .*out_type='featmap'"):
        check_channels(classifier(out_type="featmap"))


def test_a_vit_head_on_a_map_is_named() -> None:
    model = classifier(out_type="featmap", neck=dict(type="GlobalAveragePooling"))
    model.neck = None
    model.head = MODELS.build(
        dict(type="mmpretrain.VisionTransformerClsHead", num_classes=2, in_channels=16)
    )
    with pytest.raises(SetupError, match="VisionTransformerClsHead expects one vector per image"):
        check_channels(model)
    model.backbone.out_type = "cls_token"
    check_channels(model)


def test_weights_of_the_replaced_backbone_are_named() -> None:
    model = dict(backbone=dict(type="cropr_mm.CroprViT"), pretrained="vit.pth")
    with pytest.raises(SetupError, match=r"pretrained='vit\.pth' .* set model\.pretrained=None"):
        check_model_config(model)
    check_model_config(model | dict(pretrained=None))
    check_model_config(model | dict(backbone=dict(type="ResNet")))


def data(folder: Path, labels: str) -> Any:
    (folder / "list.txt").write_text(labels)
    return DATASETS.build(
        dict(
            type="mmpretrain.CustomDataset",
            data_root=str(folder),
            ann_file="list.txt",
            metainfo=dict(classes=("cat", "dog")),
        )
    )


@pytest.mark.parametrize("labels", ["a.png 0\nb.png 2\n", "a.png 1\nb.png -1\n"])
def test_labels_outside_of_the_classes_are_named(labels: str, tmp_path: Path) -> None:
    check_labels(data(tmp_path, "a.png 0\nb.png 1\n"), "train_dataloader")
    with pytest.raises(
        SetupError, match=r"train_dataloader: expected labels in \[0, 1\] .*b\.png in .*list\.txt"
    ):
        check_labels(data(tmp_path, labels), "train_dataloader")
    whole = ConcatDataset([data(tmp_path, labels)])
    with pytest.raises(SetupError, match=r"got .* for .*b\.png"):
        check_labels(whole, "train_dataloader")


def test_classes_of_head_and_data_preprocessor_are_those_of_the_dataset(tmp_path: Path) -> None:
    dataset = data(tmp_path, "a.png 0\n")
    check_classes(classifier(preprocessor=dict(num_classes=2)), dataset, "train_dataloader")
    with pytest.raises(SetupError, match=r"data_preprocessor has num_classes=1000.* 2 classes"):
        check_classes(classifier(preprocessor=dict(num_classes=1000)), dataset, "train_dataloader")
    with pytest.raises(SetupError, match=r"head has num_classes=7.* 2 classes"):
        check_classes(classifier(num_classes=7), dataset, "train_dataloader")


def test_multi_label_data_are_checked_before_the_model_is_built(tmp_path: Path) -> None:
    dataset = dict(
        type="cropr_mm.CocoMultiLabelDataset",
        data_root=str(tmp_path),
        ann_file="a.json",
        data_prefix=dict(img_path=""),
    )
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(SetupError, match=r"expected an annotation file, found none at .*a\.json"):
        check_data(cfg, ("train",))
    images = [dict(id=1, file_name="1.png")]
    content = dict(images=images, annotations=[], categories=[dict(id=1, name="cat")])
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(SetupError, match=r"a\.json: 1 image is missing \(.*1\.png\)"):
        check_data(cfg, ("train",))
    (tmp_path / "1.png").touch()
    check_data(cfg, ("train",))
    cfg.train_dataloader.dataset.metainfo = dict(classes=("cow",))
    with pytest.raises(SetupError, match=r"train_dataloader: .*got none named cow"):
        check_data(cfg, ("train",))


def exiting(head: dict | None) -> nn.Module:
    """An encoder that tokens leave with logits, below a segmenter's head or none."""
    init_default_scope("mmseg")
    schedule = dict(type="cropr_mm.Stages", rate=4, blocks=[0])
    reducer = dict(type="cropr_mm.DToP", num_classes=3)
    model = nn.Module()
    model.backbone = CroprViT(ARCH, reducer=reducer, schedule=schedule)
    if head is not None:
        given: dict[str, Any] = dict(in_channels=16, channels=16, num_classes=3, num_convs=0)
        model.decode_head = MODELS.build(given | head)
    return model


def test_logits_of_tokens_that_left_need_a_head_that_reads_them() -> None:
    pytest.importorskip("mmseg")
    check_channels(exiting(dict(type="cropr_mm.EarlyExitHead", in_index=0)))
    with pytest.raises(SetupError, match=r"DToP lets .*EarlyExitHead', in_index=0.*got FCNHead"):
        check_channels(exiting(dict(type="mmseg.FCNHead", in_index=0)))
    with pytest.raises(SetupError, match=r"DToP lets tokens leave .* got no decode_head"):
        check_channels(exiting(None))


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        (
            dict(
                type="cropr_mm.CroprCvT",
                arch=dict(embed_dims=(8, 16, 32), depths=(1, 1, 2), num_heads=(1, 1, 2)),
                img_size=64,
                out_indices=(0, 1, 2),
            ),
            [8, 16, 32],
        ),
        (
            dict(
                type="cropr_mm.CroprPVT",
                arch=dict(depths=(1, 1, 1, 1), embed_dims=(8, 16, 24, 32), num_heads=(1, 1, 1, 2)),
                img_size=64,
            ),
            [8, 16, 24, 32],
        ),
    ],
)
def test_stages_of_a_pyramid_have_channels_of_their_own(backbone: dict, channels: list) -> None:
    model = nn.Module()
    model.backbone = MODELS.build(backbone)
    assert [out.shape[1] for out in model.backbone(torch.randn(1, 3, 64, 64))] == channels
    model.decode_head = nn.Module()
    model.decode_head.in_channels, model.decode_head.in_index = channels, range(len(channels))
    check_channels(model)
    model.decode_head.in_channels = [8, 16, *channels[3:], 8]
    with pytest.raises(SetupError, match=rf"has {', '.join(map(str, channels))} channels"):
        check_channels(model)
