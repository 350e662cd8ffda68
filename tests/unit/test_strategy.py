"""Choice of DDP or FSDP, and what FSDP refuses before training."""

from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.engine.preflight import SetupError
from cropr_mm.engine.runner import ToolRunner
from cropr_mm.engine.strategy import check_shardable, choose_strategy, is_sharded, runner_class
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook


def config(**changes: Any) -> Config:
    wrapper = dict(type="cropr_mm.CroprOptimWrapper", clip_grad=dict(max_norm=1.0))
    return Config({"launcher": "pytorch", "optim_wrapper": wrapper, **changes})


@pytest.mark.parametrize(
    ("configured", "option", "sharded"),
    [
        (None, None, False),
        (None, "ddp", False),
        (None, "fsdp", True),
        ("DDPStrategy", None, False),
        ("DDPStrategy", "fsdp", True),
        ("FSDPStrategy", None, True),
        ("mmengine.FSDPStrategy", None, True),
        ("FSDPStrategy", "ddp", False),
    ],
)
def test_option_goes_before_config(
    configured: str | None, option: str | None, sharded: bool
) -> None:
    cfg = config(**({"strategy": dict(type=configured)} if configured else {}))
    choose_strategy(cfg, option)
    assert is_sharded(cfg) == sharded
    assert (runner_class(cfg) is ToolRunner) == (not sharded)


def test_settings_of_copies_stand_elsewhere() -> None:
    strategy = dict(type="DDPStrategy", model_wrapper=dict(find_unused_parameters=True))
    with pytest.raises(SetupError, match=r"DDP has its settings in .* got model_wrapper in it"):
        choose_strategy(config(strategy=strategy), None)


def test_settings_of_the_strategy_stay() -> None:
    wrapper = dict(backward_prefetch="BACKWARD_POST")
    cfg = config(strategy=dict(type="FSDPStrategy", model_wrapper=wrapper))
    choose_strategy(cfg, "fsdp")
    assert cfg.strategy.model_wrapper == wrapper


def test_loss_scale_of_mixed_precision_is_shared() -> None:
    cfg = config(optim_wrapper=dict(type="cropr_mm.CroprAmpOptimWrapper"))
    choose_strategy(cfg, "fsdp")
    assert cfg.optim_wrapper.use_fsdp is True


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(launcher="none"), "--launcher pytorch or slurm"),
        (dict(launcher="mpi"), "--launcher mpi"),
        (dict(strategy=dict(type="DeepSpeedStrategy")), "got DeepSpeedStrategy"),
        (dict(compile=True), "without compile, got True"),
        (dict(sync_bn="torch"), "without sync_bn, got 'torch'"),
        (dict(model_wrapper_cfg=dict(type="A")), "without model_wrapper_cfg, got {'type': 'A'}"),
        (dict(optim_wrapper=dict(clip_grad=dict(max_norm=1))), "OptimWrapper clips by the norm"),
    ],
)
def test_what_shards_would_change_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SetupError, match=says) as error:
        choose_strategy(config(**changes), "fsdp")
    assert "\n" not in str(error.value)


def test_clipping_by_value_needs_no_norm() -> None:
    wrapper = dict(type="OptimWrapper", clip_grad=dict(type="value", clip_value=1.0))
    choose_strategy(config(optim_wrapper=wrapper), "fsdp")


def test_old_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.1.2+cpu")
    choose_strategy(config(), "ddp")
    with pytest.raises(SetupError, match=r"--strategy fsdp expects torch .* got 2\.1\.2"):
        choose_strategy(config(), "fsdp")


class Scalar(nn.Module):
    """A parameter without dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def test_scalars_are_named() -> None:
    check_shardable(nn.Linear(2, 2), [])
    with pytest.raises(SetupError, match=r"scalars 0\.scale in Sequential"):
        check_shardable(nn.Sequential(Scalar()), [])


def test_adapters_are_named() -> None:
    pytest.importorskip("peft")
    arch = dict(embed_dim=8, depth=1, num_heads=2)
    check_shardable(nn.ModuleDict(dict(backbone=CroprViT(arch=arch))), [])
    model = nn.ModuleDict(dict(backbone=CroprViT(arch=arch, lora=dict(r=2))))
    with pytest.raises(SetupError, match=r"cannot write the adapters of backbone: .* without lora"):
        check_shardable(model, [])


def test_hooks_that_copy_the_model_are_refused() -> None:
    target = dict(type="cropr_mm.ClassTarget")
    check_shardable(nn.Linear(2, 2), [CroprAuxLossHook(target)])
    teacher = CroprAuxLossHook(target, teacher=dict(checkpoint="dense.pth"))
    for hook in (EMAHook(), teacher):
        with pytest.raises(SetupError, match="no process has a whole one"):
            check_shardable(nn.Linear(2, 2), [hook])
