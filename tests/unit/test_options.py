"""What options of the tools make of a config."""

import pytest
from mmengine.config import Config
from torch import nn
from torchvision.ops import RoIAlign

from cropr_mm.engine.options import check_precision, disable_amp, enable_amp


def test_without_amp_the_plain_wrapper_stays_and_what_only_amp_knows_goes() -> None:
    wrapper = dict(
        type="cropr_mm.CroprAmpOptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3),
        clip_grad=dict(max_norm=1.0),
        loss_scale="dynamic",
        dtype="bfloat16",
    )
    cfg = Config(dict(optim_wrapper=wrapper))
    disable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == dict(
        type="cropr_mm.CroprOptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-3),
        clip_grad=dict(max_norm=1.0),
    )


def test_a_wrapper_without_amp_stays_as_it_is() -> None:
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
    cfg = Config(dict(optim_wrapper=wrapper))
    disable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == wrapper


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cropr_mm.engine.options.get_device", lambda: "cpu")


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("kind", ["CroprOptimWrapper", "CroprAmpOptimWrapper"])
def test_on_a_cpu_mixed_precision_is_bfloat16(kind: str) -> None:
    wrapper = dict(type=f"cropr_mm.{kind}", clip_grad=dict(max_norm=1.0))
    if "Amp" in kind:
        wrapper |= dict(loss_scale=512.0, dtype="float16")
    cfg = Config(dict(optim_wrapper=wrapper))
    enable_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == dict(
        type="cropr_mm.CroprBfloat16OptimWrapper", clip_grad=dict(max_norm=1.0)
    )
    check_precision(cfg, nn.Linear(1, 1))
    disable_amp(cfg)
    assert cfg.optim_wrapper.type == "cropr_mm.CroprOptimWrapper"


@pytest.mark.usefixtures("cpu")
def test_rois_of_mmcv_are_not_aligned_in_bfloat16_on_a_cpu() -> None:
    mmcv = pytest.importorskip("mmcv.ops")
    cfg = Config(dict(optim_wrapper=dict(type="cropr_mm.CroprBfloat16OptimWrapper")))
    check_precision(cfg, nn.Sequential(RoIAlign(7, 1.0, 1)))
    with pytest.raises(ValueError, match=r"RoIAlign .* float32 on a CPU.*--no-amp"):
        check_precision(cfg, nn.Sequential(mmcv.RoIAlign(7)))
