"""CroprPVT against timm's PVT v2 and against a stage that keeps and masks every token."""

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hosts_of_reducers import (
    CROPR,
    PRUNERS,
    check_dead_places_are_gone,
    check_deployed_keeps_the_same,
    check_masked_have_a_gradient,
    check_masking_is_dropping,
    check_predictors_learn,
    check_pruners_run_at_any_size,
    explicit,
    randomize,
)
from timm.models.pvt_v2 import PyramidVisionTransformerV2
from torch import Tensor, nn

from cropr_mm import CroprPVT
from cropr_mm.backbones.find import auxiliary_reducers, find_backbones, find_vits
from cropr_mm.backbones.pvt_block import apply_attention, apply_mlp
from cropr_mm.checkpoints import CheckpointError, load_pvt
from cropr_mm.optim.clip_groups import auxiliary_parameters

SIZE = (96, 128)
DIMENSIONS: dict[str, Any] = dict(
    depths=(2, 3, 4, 3), embed_dims=(8, 16, 24, 32), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2)
)
# By stage: tokens of the grid, and those kept after its blocks.
KEEP = {1: {0: 150, 1: 90}, 2: {0: 40, 1: 30, 2: 11}, 3: {0: 8, 1: 5}}


def pruned(stage: int = 2, linear: bool = False, **changes: Any) -> CroprPVT:
    settings: dict[str, Any] = dict(
        arch=DIMENSIONS | dict(linear=linear),
        img_size=SIZE,
        stage=stage,
        reducer=CROPR,
        schedule=explicit(KEEP.get(stage, {0: 1})),
    )
    model = CroprPVT(**settings | changes)
    randomize(model)
    return model.eval()


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li", "pvt_v2_b2.in1k"])
def test_without_reducer_every_map_is_timms(name: str) -> None:
    source = timm.create_model(name)
    randomize(source)
    model = CroprPVT(name, img_size=SIZE)
    load_pvt(model, source.state_dict())
    img = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        expected = source.eval().forward_intermediates(img, intermediates_only=True)
        got = model.eval()(img)
    assert [m.shape[2:] for m in got] == [(24, 32), (12, 16), (6, 8), (3, 4)]
    assert len(got) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("linear", [False, True])
def test_pruned_stage_is_one_that_masks(stage: int, linear: bool) -> None:
    model = pruned(stage, linear)
    img = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        got, expected = model(img), masked(model, img)
        dense = masked(model, img, prune=False)
    for i, (a, b, c) in enumerate(zip(got, expected, dense, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert torch.equal(b, c) == (i < stage)


def test_gradients_are_those_of_a_stage_that_masks() -> None:
    model = pruned(out_indices=(2, 3))
    twin = copy.deepcopy(model)
    img = torch.randn(2, 3, *SIZE)
    sum(m.square().mean() for m in model(img)).backward()
    sum(m.square().mean() for m in masked(twin, img)[2:]).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name.startswith("reducers."):
            assert a.grad is None, "selection passes no gradient"
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_linear_layers_see_kept_tokens_only() -> None:
    model = pruned(out_indices=(3,))
    seen: dict[str, list[int]] = dict(q=[], fc1=[], fc2=[])

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name].append(args[0].shape[1])

    for block in model.stages[2].blocks:
        for name, layer in dict(q=block.attn.q, fc1=block.mlp.fc1, fc2=block.mlp.fc2).items():
            layer.register_forward_pre_hook(partial(note, name))
    model(torch.randn(1, 3, *SIZE))
    assert model.tokens_per_block() == [48, 40, 30, 11]
    assert seen == {name: [48, 40, 30, 11] for name in seen}


@pytest.mark.parametrize("stage", [1, 2])
def test_dropped_tokens_are_zero_for_the_next_stage_and_whole_in_the_output(stage: int) -> None:
    model = pruned(stage)
    entered: list[Tensor] = []
    model.stages[stage + 1].downsample.register_forward_pre_hook(lambda _, x: entered.append(x[0]))
    with torch.no_grad():
        whole = model(torch.randn(2, 3, *SIZE))[stage]
    alive = entered[0].abs().amax(dim=1) > 0
    assert (alive.sum(dim=(1, 2)) == min(KEEP[stage].values())).all()
    assert (whole.abs().amax(dim=1) > 0).all()
    torch.testing.assert_close(entered[0], whole * alive.unsqueeze(1))


@pytest.mark.parametrize("name", PRUNERS)
def test_pruners_run_at_any_size(name: str) -> None:
    check_pruners_run_at_any_size(pruned, name, [(23, 19), (12, 10), (6, 5), (3, 3)])


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_masking_in_training_is_dropping_in_evaluation(
    name: str, stage: int, linear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = partial(pruned, stage, linear)
    check_masking_is_dropping(make, name, list(KEEP[stage]), torch.randn(1, 3, *SIZE), monkeypatch)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_the_loss_of_the_model_reaches_every_predictor(name: str, stage: int) -> None:
    model = pruned(stage, reducer=dict(type=f"cropr_mm.{name}"), out_indices=(3,))
    check_predictors_learn(model, torch.randn(2, 3, *SIZE))


@pytest.mark.parametrize("stage", [2, 3])
def test_both_halves_of_a_block_have_a_gradient_for_who_is_masked(stage: int) -> None:
    model = pruned(stage)
    block = model.stages[stage].blocks[0]
    halves = [partial(half, block) for half in (apply_attention, apply_mlp)]
    check_masked_have_a_gradient(model, halves, prefix=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["AttnTopK", "ETPS", "ATS"])
def test_attention_is_read_where_keys_are_not_reduced(name: str) -> None:
    """Softmax of each query and head in a loop."""
    model = pruned(3, reducer=dict(type=f"cropr_mm.{name}", signal="column_mean"))
    block, steps, inputs = model.stages[3].blocks[0], [], []
    block.norm1.register_forward_hook(lambda _m, _a, out: inputs.append(out))
    model.reducers["0"].register_forward_hook(lambda _m, args, _o: steps.append(args))
    model(torch.randn(2, 3, *SIZE))
    ((_, _, signals),) = steps
    q = block.attn.q(inputs[0]).view(2, 12, 4, 8)
    k, v = block.attn.kv(inputs[0]).view(2, 12, 2, 4, 8).unbind(2)
    received = torch.zeros(2, 12, 4)
    for image, query, head in itertools.product(range(2), range(12), range(4)):
        logits = k[image, :, head] @ q[image, query, head] / 8**0.5
        received[image, :, head] += logits.softmax(dim=0) / 12
    if name == "ATS":
        torch.testing.assert_close(signals.column_heads, received)
        torch.testing.assert_close(signals.values, v.flatten(2))
    else:
        torch.testing.assert_close(signals.column_mean, received.mean(dim=2))


@torch.no_grad()
def test_dead_places_are_as_if_they_had_left() -> None:
    reducer = dict(type="cropr_mm.ATS", signal="column_mean")
    model = pruned(3, reducer=reducer, schedule=explicit({0: 11, 1: 5}))
    for j, factor in ((0, 15), (1, 60)):  # else attention is too even to leave a place dead
        model.stages[3].blocks[j].attn.q.weight.mul_(factor)
    counts = check_dead_places_are_gone(model, torch.randn(1, 3, *SIZE))
    assert counts[0] < 11, "some places are dead"
    assert counts[0] > 5 > counts[1] > 0, "and later too"


def test_hooks_and_optimizers_find_its_reducers() -> None:
    model = nn.ModuleDict(dict(backbone=pruned()))
    found = find_backbones(model)
    assert list(found) == ["backbone"]
    assert find_vits(model) == {}
    assert list(auxiliary_reducers(found["backbone"])) == [0, 1, 2]
    assert len(auxiliary_parameters(model)) == len(list(model["backbone"].reducers.parameters()))
    found["backbone"].progress = 0.5
    assert found["backbone"].num_keep() == {0: 44, 1: 39, 2: 30}


def test_deployed_it_keeps_the_same_tokens() -> None:
    check_deployed_keeps_the_same(pruned, torch.randn(2, 3, *SIZE))


def test_in_training_cropr_wants_a_listener() -> None:
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        pruned().train()(torch.randn(1, 3, *SIZE))


def test_checkpoints_load_strictly(tmp_path: Path) -> None:
    source = PyramidVisionTransformerV2(**DIMENSIONS, num_classes=5)
    weights = source.state_dict()
    file = tmp_path / "pvt.pth"
    torch.save(dict(state_dict={f"backbone.{n}": v for n, v in weights.items()}), file)
    pretrained = dict(type="Pretrained", checkpoint=str(file), prefix="backbone.")
    for taps in ((2,), (0, 1, 2, 3)):
        model = pruned(out_indices=taps, init_cfg=pretrained)
        model.init_weights()
        assert len(model.stages) == taps[-1] + 1
        values = dict(model.named_parameters())
        assert all(torch.equal(v, values[n]) for n, v in weights.items() if n in values)
    with pytest.raises(CheckpointError, match=r"stages\.3\.norm\.bias"):
        load_pvt(model, {n: v for n, v in weights.items() if n != "stages.3.norm.bias"})
    with pytest.raises(CheckpointError, match="surplus"):
        load_pvt(model, weights | dict(surplus=torch.zeros(1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="pvt_b0"), "arch must be one of pvt_v2_b0"),
        (dict(arch=dict(width=3)), r"got unknown \['width'\]"),
        (dict(stage=-1), r"stage must be in 0\.\.3"),
        (dict(stage=2, out_indices=(0, 1)), r"stage must be in 0\.\.1"),
        (dict(out_indices=(3, 1)), r"out_indices must be ascending stages"),
        (dict(out_indices=()), r"out_indices must be ascending stages"),
        (dict(drop_path_rate=1.0), r"drop_path_rate must be in \[0, 1\)"),
        (dict(schedule=None), "reducer and schedule go together"),
        (dict(reducer=dict(type="cropr_mm.ToMe")), "ToMe makes tokens of no cell and reads"),
        (dict(reducer=dict(type="cropr_mm.SiT")), "SiT makes tokens of no cell"),
        (dict(reducer=dict(type="cropr_mm.EViT")), r"EViT makes tokens of no cell and reads"),
        (dict(reducer=dict(type="cropr_mm.AttnTopK")), r"AttnTopK reads cls_row"),
        (dict(stage=3, reducer=dict(type="cropr_mm.AttnTopK")), r"AttnTopK reads cls_row:"),
        (
            dict(reducer=dict(type="cropr_mm.KMedoids")),
            r"KMedoids reads column_mean \(keys are reduced in stage 2\)",
        ),
        (
            dict(stage=3, linear=True, reducer=dict(type="cropr_mm.KMedoids")),
            r"KMedoids reads column_mean \(keys are reduced in stage 3\)",
        ),
        (dict(reducer=dict(type="cropr_mm.DToP", num_classes=3)), "leave with their logits"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruned(**changes)


def masked(model: CroprPVT, img: Tensor, prune: bool = True) -> list[Tensor]:
    """Every token at every step; dropped ones are zeroed where others would see them."""
    x = model.patch_embed(img)
    maps = []
    for i, stage in enumerate(model.stages):
        if i:
            x = stage.downsample(x)
        batch, height, width, _ = x.shape
        x = x.flatten(1, 2)
        alive = torch.ones(batch, height * width, 1, dtype=torch.bool)
        for j, block in enumerate(stage.blocks):
            y = block.norm1(x) * alive
            attend = block.attn if block.attn.sr is not None else plain_attention
            args = (y, (height, width)) if attend is block.attn else (block.attn, y, alive)
            x = x + attend(*args) * alive
            y = block.mlp.relu(block.mlp.fc1(block.norm2(x))) * alive
            y = block.mlp.dwconv(y.transpose(1, 2).reshape(batch, -1, height, width))
            x = x + block.mlp.fc2(F.gelu(y.flatten(2).transpose(1, 2))) * alive
            if prune and i == model.stage and j in KEEP[i]:
                score = x.detach() @ model.reducers[str(j)].queries.detach().sum(dim=(0, 1))
                score = score.masked_fill(~alive[..., 0], -float("inf"))
                chosen = score.topk(KEEP[i][j]).indices
                alive = torch.zeros_like(alive[..., 0]).scatter(1, chosen, True).unsqueeze(-1)
        y = stage.norm(x)
        maps.append(y.transpose(1, 2).reshape(batch, -1, height, width))
        x = (y * alive).transpose(1, 2).reshape(batch, -1, height, width)
    return maps


def plain_attention(attn: nn.Module, y: Tensor, alive: Tensor) -> Tensor:
    """Without spatial reduction: dropped tokens are no keys."""
    heads, (batch, count, channels) = attn.num_heads, y.shape
    q = attn.q(y).view(batch, count, heads, -1)
    k, v = attn.kv(y).view(batch, count, 2, heads, -1).unbind(2)
    logits = torch.einsum("bnhd,bmhd->bhnm", q, k) * attn.head_dim**-0.5
    weight = logits.masked_fill(~alive.view(batch, 1, 1, count), -float("inf")).softmax(-1)
    return attn.proj(torch.einsum("bhnm,bmhd->bnhd", weight, v).reshape(batch, count, channels))
