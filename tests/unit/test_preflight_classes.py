"""Folders and lists of classes, mixed images, and levels of a pyramid."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.engine.preflight import (
    SetupError,
    check_class_folders,
    check_levels,
    check_mixing,
    check_same_classes,
)
from cropr_mm.necks import SimpleFPN

BOTH = ("train", "val")


def folders(root: Path, **splits: tuple[str, ...]) -> Config:
    """Config of classification on these folders of each split."""
    pytest.importorskip("mmpretrain.datasets")
    init_default_scope("mmpretrain")
    loaders = {}
    for split, names in splits.items():
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / split / name / "0.png"), np.zeros((4, 4, 3), np.uint8))
        dataset = dict(type="CustomDataset", data_root=str(root), data_prefix=split)
        loaders[f"{split}_dataloader"] = dict(dataset=dataset)
    return Config(loaders)


def test_the_same_folders_pass(tmp_path: Path) -> None:
    cfg = folders(tmp_path, train=("cat", "dog"), val=("cat", "dog"))
    (tmp_path / "val/notes.txt").touch()
    (tmp_path / "val/.notes").touch()
    check_class_folders(cfg, BOTH)
    check_class_folders(cfg, ("train", "test"))
    check_class_folders(Config(dict(train_dataloader=None)), BOTH)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dog",), r"val lacks cat: labels follow"),
        (("cat", "cow"), r"val lacks dog and has cow, which"),
        (("cat", "cow", "dog"), r"val has cow, which"),
    ],
)
def test_other_folders_are_named(names: tuple, message: str, tmp_path: Path) -> None:
    cfg = folders(tmp_path, train=("cat", "dog"), val=names)
    with pytest.raises(SetupError, match=rf"^val_dataloader: .*train_dataloader .*{message}"):
        check_class_folders(cfg, BOTH)
    check_class_folders(cfg, ("val",))


def test_hidden_folders_are_named_since_mmpretrain_counts_them(tmp_path: Path) -> None:
    cfg = folders(tmp_path, train=(".ipynb_checkpoints", "cat", "dog"))
    with pytest.raises(SetupError, match=r"^train_dataloader: .*\.ipynb_checkpoints too"):
        check_class_folders(cfg, BOTH)
    settings = {k: v for k, v in cfg.train_dataloader.dataset.items() if k != "type"}
    data = pytest.importorskip("mmpretrain.datasets").CustomDataset(**settings)
    assert {Path(d["img_path"]).parent.name: d["gt_label"] for d in data}["cat"] == 1


def test_the_loaders_of_mmpretrain_would_shift_labels(tmp_path: Path) -> None:
    """What the check is for: of three folders without the first, all labels are others."""
    datasets = pytest.importorskip("mmpretrain.datasets")
    cfg = folders(tmp_path, train=("cat", "cow", "dog"), val=("cow", "dog"))
    labels = {}
    for split in BOTH:
        settings = {**cfg[f"{split}_dataloader"].dataset}
        settings.pop("type")
        data = datasets.CustomDataset(**settings)
        labels[split] = {Path(d["img_path"]).parent.name: d["gt_label"] for d in data}
    assert (labels["train"]["dog"], labels["val"]["dog"]) == (2, 1)


def test_as_many_folders_as_classes(tmp_path: Path) -> None:
    cfg = folders(tmp_path, train=("cat", "dog"))
    cfg.train_dataloader.dataset.metainfo = dict(classes=("a", "b"))
    check_class_folders(cfg, BOTH)
    cfg.train_dataloader.dataset.metainfo = dict(classes=("a", "b", "c"))
    with pytest.raises(SetupError, match=r"each of 3 classes \(a, b, c\) .* found 2 \(cat, dog\)"):
        check_class_folders(cfg, BOTH)
    cfg.train_dataloader.dataset.data_prefix = "train/cat"
    with pytest.raises(SetupError, match=r"train_dataloader: .* found none"):
        check_class_folders(cfg, BOTH)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.png", r"1 line has no label \(2: 'b\.png'\)"),
        ("b.png,1", r"1 line has no label"),
        ("", r"1 line has no label \(2: ''\)"),
        ("b.png cat", r"1 line has a label that is no number \(2: 'b\.png cat'\)"),
        ("b.png 1.0", r"1 line has a label that is no number"),
        ("my photo.png 1", None),
        ("b.png -1", None),  # said by another check
    ],
)
def test_lines_of_lists(line: str, message: str | None, tmp_path: Path) -> None:
    cfg = folders(tmp_path, train=("cat",))
    cfg.train_dataloader.dataset.ann_file = "list.txt"
    (tmp_path / "list.txt").write_text(f"a.png 0\n{line}\nc.png 1\n")
    if message is None:
        check_class_folders(cfg, BOTH)
    else:
        with pytest.raises(SetupError, match=rf"train_dataloader: .*list\.txt: {message}"):
            check_class_folders(cfg, BOTH)
    cfg.train_dataloader.dataset.with_label = False
    check_class_folders(cfg, BOTH)


def test_classes_of_all_loops_are_in_one_order() -> None:
    def dataset(*classes: str) -> SimpleNamespace:
        return SimpleNamespace(metainfo=dict(classes=classes))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same_classes(dataset("cat", "dog"), dataset("cat", "dog"), "val_dataloader")
        check_same_classes([1], dataset("cat", "dog"), "val_dataloader")
    with pytest.warns(UserWarning, match=r"val_dataloader: .* 'dog' for 'cat', 'cat' for 'dog'"):
        check_same_classes(dataset("cat", "dog"), dataset("dog", "cat"), "val_dataloader")


def test_mixed_images_need_the_number_of_classes() -> None:
    models = pytest.importorskip("mmpretrain.models")
    model = nn.Module()
    check_mixing(model)
    for number in (None, 3):
        mixing = dict(augments=[dict(type="Mixup", alpha=0.2), dict(type="CutMix", alpha=1.0)])
        model.data_preprocessor = models.ClsDataPreprocessor(
            num_classes=number, batch_augments=mixing
        )
        if number:
            check_mixing(model)
            continue
        with pytest.raises(SetupError, match=r"with Mixup, CutMix: .*num_classes="):
            check_mixing(model)
    model.data_preprocessor = models.ClsDataPreprocessor(to_onehot=True)
    with pytest.raises(SetupError, match="with to_onehot=True: "):
        check_mixing(model)
    model.data_preprocessor = models.ClsDataPreprocessor()
    check_mixing(model)


class Generator:
    """Strides of a head."""

    def __init__(self, *strides: int) -> None:
        self.strides = [(stride, stride) for stride in strides]


def detector(rpn: tuple, extractor: tuple, **neck: Any) -> nn.Module:
    model = nn.Module()
    arch = dict(embed_dim=16, depth=1, num_heads=2, patch_size=16, img_size=32)
    model.backbone = CroprViT(arch=arch)
    model.neck = SimpleFPN(16, 16, **neck)
    model.rpn_head = nn.Module()
    model.rpn_head.prior_generator = Generator(*rpn)
    model.roi_head = nn.Module()
    model.roi_head.bbox_roi_extractor = nn.Module()
    model.roi_head.bbox_roi_extractor.featmap_strides = list(extractor)
    return model


def test_levels_of_a_pyramid_are_those_of_its_readers() -> None:
    check_levels(detector((4, 8, 16, 32, 64), (4, 8, 16, 32)))
    check_levels(detector((4, 8, 16, 32), (4, 8, 16, 32), num_outs=4))
    check_levels(detector((8, 16), (8,), scale_factors=(2.0, 1.0), num_outs=2))
    check_levels(nn.Module())


@pytest.mark.parametrize(
    ("rpn", "extractor", "neck", "message"),
    [
        (
            (4, 8, 16, 32),
            (4, 8),
            {},
            r"5 maps .* 4, 8, 16, 32, 64 .* rpn_head, got .* 4, 8, 16, 32",
        ),
        ((4, 8, 16, 32, 64), (4, 8), dict(num_outs=4), "4 maps .* rpn_head, got"),
        ((8, 16, 32, 64, 128), (4, 8), {}, "rpn_head, got strides 8, 16, 32, 64, 128"),
        ((4, 8, 16, 32, 64), (8, 16), {}, r"roi_head\.bbox_roi_extractor, got strides 8, 16"),
    ],
)
def test_other_levels_are_named(rpn: tuple, extractor: tuple, neck: dict, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        check_levels(detector(rpn, extractor, **neck))
