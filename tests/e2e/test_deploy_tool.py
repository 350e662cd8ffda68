"""The inference checkpoint: smaller, complete, and the same predictions."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_tasks import write_config
from torch import nn

from cropr_mm.checkpoints import safe_load

TOOL = str(Path(__file__).parents[2] / "tools/deploy.py")
CROPR = dict(type="cropr_mm.Cropr", num_classes=2, num_queries=3)


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the tool in this process."""

    def run(*args: Any) -> None:
        monkeypatch.setattr(sys, "argv", ["deploy.py", *map(str, args)])
        runpy.run_path(TOOL, run_name="__main__")

    return run


def build(config: Path, **options: Any) -> nn.Module:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({f"model.backbone.{k}": v for k, v in options.items()})
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).eval()


def save(model: nn.Module, file: Path) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    meta = dict(epoch=3, dataset_meta=dict(classes=("a", "b"), weights=np.ones(2)))
    torch.save(
        dict(meta=meta, state_dict=model.state_dict(), optimizer=optimizer.state_dict()), file
    )


@pytest.mark.parametrize("task", ["det", "seg", "cls"])
def test_result_loads_strictly_and_predicts_the_same(
    task: str, tmp_path: Path, deploy: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, task, model__backbone__reducer=CROPR)
    trained = build(config)
    with torch.no_grad():
        for value in trained.parameters():
            value.normal_(std=0.2)
    save(trained, tmp_path / "train.pth")
    out = tmp_path / "new/folder/deploy.pth"
    deploy(config, tmp_path / "train.pth", out)
    text = capsys.readouterr().out
    content = safe_load(out)
    assert content.keys() == {"meta", "state_dict"}
    assert content["meta"]["dataset_meta"]["classes"] == ("a", "b")
    stored = Config.fromstring(content["meta"]["cfg"], ".py")
    assert stored.model.backbone.deploy is True
    assert not any("auxiliary" in name or "queries" in name for name in content["state_dict"])

    ready = build(config, deploy=True)
    ready.load_state_dict(content["state_dict"], strict=True)
    img = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(ready.backbone(img), trained.backbone(img), strict=True):
            assert torch.equal(ours, theirs)
    before, after = (sum(p.numel() for p in model.parameters()) for model in (trained, ready))
    assert after < before
    assert f"{before:,}" in text
    assert f"{after:,}" in text
    assert str(out) in text
    assert "backbone.deploy=True" in text


def test_options_replace_entries_of_the_config(tmp_path: Path, deploy: Callable[..., None]) -> None:
    config = write_config(tmp_path, "cls", model__backbone__reducer=CROPR)
    save(build(config, reducer=dict(CROPR, num_queries=1)), tmp_path / "train.pth")
    files = (config, tmp_path / "train.pth", tmp_path / "deployed.pth")
    with pytest.raises(SystemExit, match="queries"):
        deploy(*files)
    deploy(*files, "--cfg-options", "model.backbone.reducer.num_queries=1")
    assert "num_queries=1" in safe_load(files[-1])["meta"]["cfg"]


def test_other_checkpoints_and_configs_are_refused(
    tmp_path: Path, deploy: Callable[..., None]
) -> None:
    config = write_config(tmp_path, "cls", model__backbone__reducer=CROPR)
    model, file, out = build(config), tmp_path / "train.pth", tmp_path / "out.pth"
    weights = model.state_dict()
    cases: list[tuple[Any, str]] = [
        ({**weights, "extra": torch.ones(1)}, r"not a checkpoint of this config(.|\n)*-\s+extra"),
        ({k: v for k, v in weights.items() if "queries" not in k}, r"reducers\.\d\.queries\s+-"),
        (
            {**weights, "head.fc.bias": torch.ones(9)},
            r"head\.fc\.bias: expected \(2,\), got \(9,\)",
        ),
    ]
    for wrong, message in cases:
        torch.save(dict(state_dict=wrong), file)
        with pytest.raises(SystemExit, match=message):
            deploy(config, file, out)
    save(model, file)
    for target in (file, tmp_path):
        with pytest.raises(SystemExit, match="another file for the result"):
            deploy(config, file, target)
    with pytest.raises(SystemExit, match=r"no checkpoint file at .*none\.pth"):
        deploy(config, tmp_path / "none.pth", out)
    plain = write_config(tmp_path, "cls")
    cfg = Config.fromfile(plain)
    cfg.model.backbone = dict(type="mmpretrain.ResNet", depth=18)
    cfg.dump(plain)
    with pytest.raises(
        SystemExit, match=r"expected a cropr_mm\.CroprViT, CroprPVT or CroprCvT in ImageClassifier"
    ):
        deploy(plain, file, out)
    assert not out.exists()
