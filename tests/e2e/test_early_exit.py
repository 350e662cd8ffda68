"""Tokens that exit from a segmenter of mmseg: trained, validated, stripped and read again."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_tasks import write_config, write_images

from cropr_mm.build import build_model
from cropr_mm.engine.config import load_config
from cropr_mm.engine.train import train
from cropr_mm.export.deploy import deploy_checkpoint
from cropr_mm.reducers import DToP
from cropr_mm.structures import Reduction


def make_config(folder: Path, **reducer: Any) -> Config:
    """Segmenter of two classes on 8 x 8 patches; tokens exit at two stages."""
    write_images(folder)
    cfg = Config.fromfile(write_config(folder, "seg"))
    mask = reducer.get("head") == "mask"
    target = dict(
        type=f"cropr_mm.{'PatchMaskTarget' if mask else 'PatchLabelTarget'}", num_classes=2, grid=8
    )
    backbone = cfg.model.backbone
    backbone.reducer = dict(type="cropr_mm.DToP", num_classes=2, **reducer)
    backbone.schedule = dict(type="cropr_mm.KeepRatios", ratio=1.0, blocks=[1, 2])
    backbone.fusion = None
    cfg.model.decode_head.update(type="cropr_mm.EarlyExitHead", in_index=0)
    cfg.custom_hooks = [dict(type="cropr_mm.CroprAuxLossHook", target=target)]
    cfg.visualizer.vis_backends = [dict(type="LocalVisBackend")]
    path = folder / f"early_exit_{'mask' if mask else 'linear'}.py"
    cfg.dump(path)
    return load_config(str(path), str(folder / "work"))


@pytest.mark.parametrize(
    "reducer",
    [
        dict(head="mask", mask_dim=16, confidence=0.2, context=2),
        dict(confidence=0.5, context=2),
    ],
    ids=["mask", "linear"],
)
def test_stages_of_exits_train_validate_and_deploy(
    reducer: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_config(tmp_path, **reducer)
    gone: list[tuple[bool, int, int]] = []  # training, exited before and after a step
    forward = DToP.forward

    def count(self: DToP, tokens: Any, num_keep: int, signals: Any) -> Reduction:
        result = forward(self, tokens, num_keep, signals)
        before = 0 if tokens.policy is None else int((~tokens.policy).sum())
        gone.append((self.training, before, int((~result.kept.policy).sum())))
        return result

    monkeypatch.setattr(DToP, "forward", count)
    train(cfg)

    lines = [
        json.loads(line)
        for file in (tmp_path / "work").rglob("scalars.json")
        for line in file.read_text().splitlines()
    ]
    values: dict[str, float] = {key: value for line in lines for key, value in line.items()}
    task = "exit_mask" if reducer.get("head") else "exit"
    names = {"decode.loss_ce", f"loss_{task}_b01", f"loss_{task}_b02"}
    assert {key for key in values if "loss_" in key} == names
    assert all(math.isfinite(values[key]) for key in names)
    assert values["loss"] == pytest.approx(sum(values[key] for key in names), rel=1e-4)
    assert "mIoU" in values
    # The first image of validation, two iterations, two batches; two steps in each.
    assert [training for training, *_ in gone] == [False] * 2 + [True] * 4 + [False] * 4
    assert all(after >= before for _, before, after in gone)
    assert all(after > 0 for *_, after in gone)

    checkpoint = tmp_path / "work/iter_2.pth"
    weights = torch.load(checkpoint, weights_only=False)["state_dict"]
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    model = build_model(cfg).eval()
    model.load_state_dict(weights)
    deployed = deploy_checkpoint(cfg, checkpoint, tmp_path / "small.pth")
    cfg.model.backbone.deploy = True
    small = build_model(cfg).eval()
    small.load_state_dict(torch.load(deployed.file, weights_only=False)["state_dict"])
    with torch.no_grad():
        assert torch.equal(model(images), small(images))
