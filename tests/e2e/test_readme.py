"""What README and the guides show works, with nothing but what they show."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from snippets import ROOT, snippet, snippets

from cropr_mm.build import build_model
from cropr_mm.engine.preflight import check_channels, check_model_config
from cropr_mm.hooks import CroprAuxLossHook
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.targets import build_target

DIFFS = snippets("README.md", "diff") + snippets("docs/quick_start.md", "diff")
DETECTORS = [diff for diff in DIFFS if "mmdet::" in diff]
OTHERS = [diff for diff in DIFFS if "mmdet::" not in diff]


def test_there_are_swaps() -> None:
    bases = [re.search(r"(mm\w+)::(\w+)/", diff).groups() for diff in DIFFS]
    assert bases == [
        ("mmdet", "mask_rcnn"),
        ("mmdet", "dino"),
        ("mmseg", "segmenter"),
        ("mmpretrain", "vision_transformer"),
    ]


def read(diff: str, path: Path) -> Config:
    """Config that a diff leads to."""
    lines = diff.splitlines()
    assert not any(line.startswith("-") for line in lines)
    path.write_text("\n".join(line[1:] for line in lines))
    return Config.fromfile(path)


@pytest.fixture(params=DETECTORS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    pytest.importorskip("mmdet")
    return read(request.param, tmp_path / "config.py")


@pytest.mark.slow
def test_swaps_train_and_predict(config: Config) -> None:
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    init_default_scope("mmdet")
    model = MODELS.build(config.model)
    model.init_weights()  # DINO's level embedding is unset memory before
    inputs = demo_mm_inputs(
        2, image_shapes=[(3, 224, 256)] * 2, num_items=[3, 2], num_classes=80, with_mask=True
    )
    hook = config.custom_hooks[0]
    listener = AuxiliaryListener(model, build_target(hook.target, model, None), loss_weight=1.0)
    losses = model(**model.data_preprocessor(inputs, True), mode="loss")
    loss, values = model.parse_losses(losses)
    loss.backward()
    listener.remove()
    assert torch.isfinite(loss)
    assert sum("cropr" in name for name in values) == 3
    tokens = model.backbone.num_keep()
    assert list(tokens) == [3, 6, 9]
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(inputs, False), mode="predict")
    assert len(results) == 2


@pytest.mark.slow
@pytest.mark.parametrize("diff", OTHERS, ids=["segmenter", "classifier"])
def test_other_swaps_train_and_predict(diff: str, tmp_path: Path) -> None:
    pytest.importorskip("mmseg")
    pytest.importorskip("mmpretrain")
    cfg = read(diff, tmp_path / "config.py")
    torch.manual_seed(0)
    init_default_scope(cfg.default_scope)
    model = build_model(cfg, "cpu")
    model.init_weights()
    check_model_config(cfg.model)
    check_channels(model)
    side = model.backbone.img_size[0]
    samples = [sample(cfg.default_scope, side) for _ in range(2)]
    images = torch.randn(2, 3, side, side)
    hook = cfg.custom_hooks[0]
    listener = AuxiliaryListener(model, build_target(hook.target, model, None))
    loss, values = model.parse_losses(model.train()(images, samples, mode="loss"))
    loss.backward()
    listener.remove()
    assert torch.isfinite(loss)
    assert sum("cropr" in name for name in values) == 3
    with torch.no_grad():
        assert len(model.eval()(images, samples, mode="predict")) == 2


def sample(scope: str, side: int) -> Any:
    """Data sample of one image, of class 0 everywhere."""
    if scope == "mmpretrain":
        from mmpretrain.structures import DataSample

        return DataSample().set_gt_label(0)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    size = (side, side)
    made = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, padding_size=[0] * 4))
    made.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.int64))
    return made


def test_own_classes_reach_every_part(tmp_path: Path) -> None:
    pytest.importorskip("mmdet")
    path = tmp_path / "config.py"
    code = snippet("docs/train.md", "python", "data/pets/")
    path.write_text(code.replace('"configs/', f'"{ROOT}/configs/'))
    cfg = Config.fromfile(path)
    assert re.findall(r"num_classes=(\d+)", cfg.pretty_text) == ["3"] * 5
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook", "cropr_mm.CroprAuxLossHook"]
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert dataset.metainfo.classes == ("cat", "dog", "bird")
        assert dataset.data_root == "data/pets/"
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == "data/pets/val.json"
    model = build_model(cfg, "meta")
    assert [head.fc_cls.out_features for head in model.roi_head.bbox_head] == [4, 4, 4]
    hook = CroprAuxLossHook(cfg.custom_hooks[1].target)
    dataset = SimpleNamespace(metainfo=dict(classes=("cat", "dog", "bird")))
    assert hook.make_target(model, dataset).num_classes == 3


def test_plain_pytorch_encodes_an_image_pruned_and_dense() -> None:
    names: dict[str, Any] = {}
    code = snippet("README.md", "python", "import timm")
    exec(code.replace("pretrained=True", "pretrained=False"), names)
    assert names["few"].shape == names["all_"].shape == (1, 384, 14, 14)
    assert not torch.equal(names["few"], names["all_"])
    assert list(names["pruned"].num_keep().values()) == [98, 49, 24]
    assert not names["dense"].num_keep()


def test_prune_chooses_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(snippet("docs/quick_start.md", "python", "import prune"), names)
    assert names["backbone"]["reducer"] == dict(type="cropr_mm.Cropr", num_classes=80)
    assert capsys.readouterr().out.splitlines()[-1].endswith("75.0%")
