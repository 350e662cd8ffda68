"""An unmodified mmdet detector trains on a Cropr backbone."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub
from tiny_fcos import AUXILIARY, HOOK, Record, loader, make_runner, model, optim_wrapper

VARIANTS = {
    "plain": dict(),
    "mixed precision": dict(
        optim_wrapper=optim_wrapper("cropr_mm.CroprAmpOptimWrapper", dtype="bfloat16")
    ),
    "bfloat16 on a CPU": dict(optim_wrapper=optim_wrapper("cropr_mm.CroprBfloat16OptimWrapper")),
    "accumulation": dict(optim_wrapper=optim_wrapper(accumulative_counts=2)),
    "activation checkpointing": dict(model=model(with_cp=True)),
    "everything at once": dict(
        model=model(with_cp=True),
        optim_wrapper=optim_wrapper(
            "cropr_mm.CroprAmpOptimWrapper", dtype="bfloat16", accumulative_counts=2
        ),
    ),
    "wrapper and constructor of mmengine": dict(
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
    ),
}


@pytest.fixture(autouse=True)
def _cpu_counts_as_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapper for mixed precision insists on one; autocast itself works on the CPU."""
    monkeypatch.setattr(
        "mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available", lambda: True
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_trains_and_validates(variant: str, tmp_path: Path) -> None:
    record = Record()
    runner = make_runner(tmp_path, custom_hooks=[HOOK, record], **VARIANTS[variant])
    calls: list[tuple[bool, torch.dtype]] = []
    for reducer in runner.model.backbone.reducers.values():
        reducer.auxiliary.register_forward_hook(
            lambda module, _, logits: calls.append((module.training, logits.dtype))
        )
    start = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()

    assert [set(AUXILIARY) <= set(logged) for logged in record.logged] == [True] * 4
    for logged in record.logged:
        losses = {name: value for name, value in logged.items() if name.startswith("loss_")}
        assert set(losses) == {"loss_cls", "loss_bbox", "loss_centerness", *AUXILIARY}
        assert all(math.isfinite(value) for value in losses.values())
        assert logged["loss"] == pytest.approx(sum(losses.values()), rel=1e-2)
    amp = any(name in type(runner.optim_wrapper).__name__ for name in ("Amp", "Bfloat16"))
    # Three heads, four iterations, none of them in validation.
    assert calls == [(True, torch.bfloat16 if amp else torch.float32)] * 12
    still = [n for n, p in runner.model.named_parameters() if torch.equal(p, start[n])]
    assert still == []
    assert MessageHub.get_current_instance().get_scalar("val/images").current() == 3


def test_the_checkpoint_is_that_of_the_model_alone(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    names = set(runner.model.state_dict())
    runner.train()
    saved = torch.load(tmp_path / "iter_4.pth", weights_only=False)
    assert set(saved["state_dict"]) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in runner.model.modules())


def test_auxiliary_losses_fall(tmp_path: Path) -> None:
    record = Record()
    make_runner(
        tmp_path,
        custom_hooks=[HOOK, record],
        train_dataloader=loader(4, 4),
        train_cfg=dict(by_epoch=False, max_iters=60, val_interval=1000),
        optim_wrapper=optim_wrapper(optimizer=dict(type="AdamW", lr=3e-3)),
    ).train()
    for name in AUXILIARY:
        first, last = record.logged[0][name], record.logged[-1][name]
        assert last < first / 3, f"{name} went from {first} to {last}"


def test_accumulated_auxiliary_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    gradients = []
    for counts, batch_size in ((1, 4), (2, 2)):
        runner = make_runner(
            tmp_path / str(counts),
            train_dataloader=loader(4, batch_size),
            train_cfg=dict(by_epoch=False, max_iters=counts, val_interval=1000),
            optim_wrapper=dict(
                type="OptimWrapper",
                optimizer=dict(type="SGD", lr=1.0),
                accumulative_counts=counts,
            ),
        )
        before = [p.detach().clone() for p in runner.model.backbone.reducers.parameters()]
        runner.train()
        after = runner.model.backbone.reducers.parameters()
        gradients.append([b - a for a, b in zip(after, before, strict=True)])
    assert all(g.abs().max() > 0 for g in gradients[0])
    for whole, accumulated in zip(*gradients, strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_without_the_hook_the_first_iteration_raises(tmp_path: Path) -> None:
    record = Record()
    runner = make_runner(tmp_path, custom_hooks=[record])
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        runner.train()
    assert record.logged == []


def test_wrong_classes_raise_before_the_first_iteration(tmp_path: Path) -> None:
    record = Record()
    hook = dict(HOOK, target=dict(type="cropr_mm.MultiLabelTarget", num_classes=4))
    runner = make_runner(tmp_path, custom_hooks=[hook, record])
    with pytest.raises(ValueError, match=r"num_classes=4, but the training dataset has 3 classes"):
        runner.train()
    assert record.logged == []


@pytest.mark.parametrize("first", ["EMAHook", "CroprAuxLossHook"])
def test_averaged_weights_are_kept_in_a_plain_copy(first: str, tmp_path: Path) -> None:
    hooks = [dict(type="EMAHook", momentum=0.5), HOOK]
    record = Record()
    runner = make_runner(
        tmp_path, custom_hooks=[*(hooks if first == "EMAHook" else reversed(hooks)), record]
    )
    runner.train()
    ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    assert int(ema.steps) == 4
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ema.modules())
    assert all(set(AUXILIARY) <= set(logged) for logged in record.logged)
