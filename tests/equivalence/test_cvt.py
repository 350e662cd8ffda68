"""CroprCvT against plain lines on published weights, where dropped tokens are kept and masked."""

import copy
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
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
    listen,
    randomize,
)
from torch import Tensor, nn

from cropr_mm import CroprCvT
from cropr_mm.backbones.find import auxiliary_reducers, find_backbones, only_backbone
from cropr_mm.checkpoints import CheckpointError, load_cvt
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import take_tokens

SIZE = (92, 128)  # 6 x 8 tokens in the last stage, from 12 x 16 and 23 x 32
DEPTHS, HEADS, WIDTHS = (1, 2, 4), (1, 2, 3), (8, 16, 24)
ARCH = dict(embed_dims=WIDTHS, depths=DEPTHS, num_heads=HEADS)
KEEP = {0: 40, 1: 30, 2: 11}


def pruned(**changes: Any) -> CroprCvT:
    settings: dict[str, Any] = dict(
        arch=ARCH, img_size=SIZE, out_indices=(0, 1, 2), reducer=CROPR, schedule=explicit(KEEP)
    )
    model = CroprCvT(**settings | changes)
    randomize(model)
    return model.eval()


def dense(**changes: Any) -> CroprCvT:
    return pruned(reducer=None, schedule=None, **changes)


def published(model: CroprCvT) -> dict[str, Tensor]:
    """Weights under the names of microsoft/CvT, with a classifier."""
    weights = {name.replace("stages.", "stage"): v for name, v in model.state_dict().items()}
    weights = {name: v for name, v in weights.items() if not name.startswith("reducers.")}
    return weights | {"head.weight": torch.zeros(5, 24), "head.bias": torch.zeros(5)}


def plain(
    w: dict[str, Tensor], img: Tensor, num_keep: dict[int, int], queries: dict[int, Tensor]
) -> list[Tensor]:
    """Maps of all stages and the normed class token; every token is there at every step.

    Queries (C,) score the tokens after a block of the last stage; tokens that left are zero where a
    convolution would see them, and stay as they are.
    """

    def linear(y: Tensor, name: str) -> Tensor:
        return F.linear(y, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def convolved(cells: Tensor, name: str, stride: int) -> Tensor:
        y = F.conv2d(cells, w[f"{name}.conv.weight"], None, stride, 1, groups=cells.shape[1])
        bn = [w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *bn).flatten(2).mT

    x, maps = img, []
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        p = f"stage{i}"
        stride, padding = (4, 2) if i == 0 else (2, 1)
        embed = f"{p}.patch_embed.proj"
        x = F.conv2d(x, w[f"{embed}.weight"], w[f"{embed}.bias"], stride, padding)
        grid = x.shape[2:]
        x = norm(x.flatten(2).mT, f"{p}.patch_embed.norm")
        first = int(i == 2)
        if first:
            x = torch.cat([w["stage2.cls_token"].expand(len(x), -1, -1), x], dim=1)
        alive = torch.ones(len(x), x.shape[1], 1)
        for j in range(depth):
            b = f"{p}.blocks.{j}"
            y = norm(x, f"{b}.norm1") * alive
            cells = y[:, first:].mT.unflatten(2, grid)
            parts = []
            for name, step in (("q", 1), ("k", 2), ("v", 2)):
                tokens = convolved(cells, f"{b}.attn.conv_proj_{name}", step)
                tokens = linear(torch.cat([y[:, :first], tokens], 1), f"{b}.attn.proj_{name}")
                parts.append(tokens.unflatten(2, (heads, -1)))
            q, k, v = parts
            weight = (torch.einsum("bqhd,bkhd->bhqk", q, k) * WIDTHS[i] ** -0.5).softmax(-1)
            y = torch.einsum("bhqk,bkhd->bqhd", weight, v).flatten(2)
            x = x + linear(y, f"{b}.attn.proj") * alive
            y = linear(norm(x, f"{b}.norm2"), f"{b}.mlp.fc1")
            x = x + linear(y * torch.sigmoid(1.702 * y), f"{b}.mlp.fc2") * alive
            if first and j in num_keep:
                score = x[:, 1:].detach() @ queries[j]
                score = score.masked_fill(alive[:, 1:, 0] == 0, -float("inf"))
                chosen = score.topk(num_keep[j]).indices + 1
                alive = torch.zeros_like(alive[..., 0]).scatter(1, chosen, 1.0)
                alive[:, 0] = 1
                alive = alive.unsqueeze(-1)
        last = norm(x, "norm") if first else x
        maps.append(last[:, first:].mT.unflatten(2, grid))
        x = x[:, first:].mT.unflatten(2, grid) if not first else last[:, 0]
    return [*maps, x]


def queries_of(model: CroprCvT) -> dict[int, Tensor]:
    return {
        int(block): reducer.queries.detach().sum(dim=(0, 1))
        for block, reducer in model.reducers.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("size", [SIZE, (90, 75)])
def test_published_weights_compute_what_plain_lines_do(size: tuple[int, int]) -> None:
    weights = published(dense())
    img = torch.randn(2, 3, *size)
    *maps, cls_token = plain(weights, img, {}, {})
    assert sum(maps[-1].shape[2:]) > 8
    for kind, expected in (("featmap", maps), ("cls_token", [*maps[:2], cls_token])):
        model = CroprCvT(ARCH, SIZE, out_indices=(0, 1, 2), out_type=kind).eval()
        load_cvt(model, weights)
        assert model.patch_grid(size) == tuple(maps[-1].shape[2:])
        for a, b in zip(model(img), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "millions"), [("cvt_13", 224, 20), ("cvt_21", 224, 32), ("cvt_w24", 384, 277)]
)
def test_models_have_the_published_parameters(name: str, side: int, millions: int) -> None:
    with torch.device("meta"):
        model = CroprCvT(name, img_size=side)
    count = sum(p.numel() for p in model.parameters()) + 1000 * (model.embed_dim + 1)
    assert round(count / 1e6) == millions
    assert model.grid == (side // 16, side // 16)


@torch.no_grad()
def test_pruned_stage_is_one_that_masks() -> None:
    model = pruned()
    img = torch.randn(2, 3, *SIZE)
    *expected, cls_token = plain(published(model), img, KEEP, queries_of(model))
    whole = plain(published(model), img, {}, {})
    for i, (a, b, c) in enumerate(zip(model(img), expected, whole, strict=False)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert torch.equal(b, c) == (i < 2)
    model.out_type = "cls_token"
    torch.testing.assert_close(model(img)[-1], cls_token, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_a_stage_that_masks() -> None:
    model = pruned(out_indices=(2,))
    leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    weights = published(model) | {n.replace("stages.", "stage"): v for n, v in leaves.items()}
    img = torch.randn(2, 3, *SIZE)
    model(img)[0].square().mean().backward()
    plain(weights, img, KEEP, queries_of(model))[2].square().mean().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("reducers."):
            assert parameter.grad is None, "selection passes no gradient"
        else:
            got = leaves[name].grad
            torch.testing.assert_close(parameter.grad, got, rtol=1e-3, atol=1e-5, msg=name)


def test_linear_layers_see_kept_tokens_only() -> None:
    model = pruned()
    seen: dict[str, list[int]] = dict(proj_q=[], proj_k=[], fc1=[], proj=[])

    def note(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name].append(args[0].shape[1])

    for block in model.blocks:
        for name, module in block.named_modules():
            short = name.rpartition(".")[2]
            if short in seen:
                module.register_forward_pre_hook(partial(note, short))
    model(torch.randn(1, 3, *SIZE))
    assert model.tokens_per_block() == [49, 41, 31, 12]
    assert seen.pop("proj_k") == [1 + 3 * 4] * 4
    assert seen == {name: [49, 41, 31, 12] for name in seen}


@pytest.mark.parametrize("out_type", ["featmap", "cls_token", "avg_featmap", "avg_all", "raw"])
@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_masking_in_training_is_dropping_in_evaluation(
    name: str, out_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = partial(pruned, out_type=out_type)
    check_masking_is_dropping(make, name, list(KEEP), torch.randn(1, 3, *SIZE), monkeypatch)


def test_in_training_batch_norm_learns_the_same_of_masked_and_of_dropped_tokens() -> None:
    x, places = torch.randn(2, 49, 24), torch.rand(2, 48).argsort(dim=1)[:, :20].sort().values
    policy = torch.zeros(2, 48).scatter(1, places, 1.0)
    masked = Tokens(x, torch.arange(48).expand(2, -1), (6, 8), 1, policy=policy)
    dropped = take_tokens(masked.replace(policy=None), places, with_prefix=True)
    one, other = (dense().blocks[0].train() for _ in range(2))
    got, expected = one(masked), other(dropped)
    got = take_tokens(got, places, with_prefix=True)
    torch.testing.assert_close(got.x, expected.x, rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert int(one.attn.conv_proj_q.bn.num_batches_tracked) == 1


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_the_loss_of_the_model_reaches_every_predictor(name: str) -> None:
    model = pruned(reducer=dict(type=f"cropr_mm.{name}"), out_type="cls_token")
    check_predictors_learn(model, torch.randn(2, 3, *SIZE))


def test_attention_has_a_gradient_for_who_is_masked() -> None:
    model = pruned()
    check_masked_have_a_gradient(model, [model.blocks[0].apply_attention], prefix=1)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["AttnTopK", "ETPS", "ATS", "KMedoids"])
def test_what_reducers_read_is_of_the_keys_of_every_cell(name: str, training: bool) -> None:
    """Softmax of each query and head in a loop; keys of even cells are the block's own."""
    model = pruned(reducer=dict(type=f"cropr_mm.{name}"))
    attn, steps, inputs, keys = model.blocks[0].attn, [], [], []
    attn.train(training)
    twin = copy.deepcopy(attn)
    model.blocks[0].norm1.register_forward_hook(lambda _m, _a, out: inputs.append(out))
    attn.proj_k.register_forward_hook(lambda _m, _a, out: keys.append(out))
    model.reducers["0"].register_forward_hook(lambda _m, args, _o: steps.append(args))
    model(torch.randn(2, 3, *SIZE))
    ((_, _, signals),) = steps
    x = inputs[0]
    twin(x, Tokens(x, torch.arange(48).expand(2, -1), (6, 8), 1), frozenset())
    for (part, a), b in zip(attn.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b), f"{part} has not seen the signals"
    cells = x[:, 1:].mT.unflatten(2, (6, 8))

    def rows(kind: str) -> Tensor:
        conv = getattr(attn, f"conv_proj_{kind}")
        y = F.conv2d(cells, conv.conv.weight, padding=1, groups=24)
        bn = conv.bn
        if training:
            y = F.batch_norm(y, None, None, bn.weight, bn.bias, True)
        else:
            y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        tokens = torch.cat([x[:, :1], y.flatten(2).mT], dim=1)
        return getattr(attn, f"proj_{kind}")(tokens).view(2, 49, 3, 8)

    q, k, v = rows("q"), rows("k"), rows("v")
    if not training:
        even = k[:, 1:].view(2, 6, 8, 24)[:, ::2, ::2].flatten(1, 2)
        torch.testing.assert_close(even, keys[0][:, 1:], rtol=1e-4, atol=1e-5)
    weight = torch.zeros(2, 49, 49, 3)
    for image, query, head in itertools.product(range(2), range(49), range(3)):
        logits = k[image, :, head] @ q[image, query, head] / 24**0.5
        weight[image, query, :, head] = logits.softmax(dim=0)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)
    if name == "ATS":
        close(signals.cls_heads, weight[:, 0, 1:])
        torch.testing.assert_close(signals.values, v[:, 1:].flatten(2), rtol=1e-4, atol=1e-5)
    elif name == "KMedoids":
        close(signals.column_mean, weight.mean(dim=(1, 3))[:, 1:])
    else:
        close(signals.cls_row, weight[:, 0, 1:].mean(dim=2))


@torch.no_grad()
def test_dead_places_are_as_if_they_had_left() -> None:
    model = pruned(reducer=dict(type="cropr_mm.ATS"), schedule=explicit({0: 40, 2: 30}))
    for block in model.blocks:  # else attention is too even to leave a place dead
        block.attn.proj_q.weight.mul_(20)
    counts = check_dead_places_are_gone(model, torch.randn(1, 3, *SIZE))
    assert 30 < counts[0] < 40, "some places are dead"
    assert 0 < counts[1] < 30, "and later too"


@pytest.mark.parametrize("name", PRUNERS)
def test_pruners_run_at_any_size(name: str) -> None:
    check_pruners_run_at_any_size(pruned, name, [(22, 19), (11, 10), (6, 5)])


@torch.no_grad()
def test_fusion_brings_every_token_back_before_the_last_block() -> None:
    fusion = dict(type="cropr_mm.LastLayerFusion")
    model = pruned(fusion=fusion, schedule=explicit({0: 20, 1: 9}))
    assert model.tokens_per_block() == [49, 21, 10, 49]
    whole = dense()
    load_cvt(whole, published(model))
    img = torch.randn(2, 3, *SIZE)
    model.reducers.clear()  # nothing leaves: the dense model
    model.schedule = None
    assert all(torch.equal(a, b) for a, b in zip(model(img), whole(img), strict=True))


def test_hooks_and_tools_find_its_reducers() -> None:
    model = nn.ModuleDict(dict(backbone=pruned()))
    assert list(find_backbones(model)) == ["backbone"]
    path, found = only_backbone(model)
    assert path == "backbone"
    assert list(auxiliary_reducers(found)) == [0, 1, 2]
    found.progress = 0.5
    assert found.num_keep() == {0: 44, 1: 39, 2: 30}


def test_deployed_it_keeps_the_same_tokens() -> None:
    check_deployed_keeps_the_same(pruned, torch.randn(2, 3, *SIZE))


def test_in_training_cropr_wants_a_listener() -> None:
    model = pruned().train()
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        model(torch.randn(1, 3, *SIZE))
    listen(model)
    model(torch.randn(1, 3, *SIZE))


def test_checkpoints_load_strictly(tmp_path: Path) -> None:
    source = pruned()
    weights = published(source)
    file = tmp_path / "cvt.pth"
    torch.save(dict(state_dict={f"backbone.{n}": v for n, v in source.state_dict().items()}), file)
    model = CroprCvT(
        ARCH,
        SIZE,
        reducer=CROPR,
        schedule=explicit(KEEP),
        init_cfg=dict(type="Pretrained", checkpoint=str(file), prefix="backbone."),
    )
    model.init_weights()
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    name = "stage2.blocks.3.attn.conv_proj_v.bn.running_var"
    with pytest.raises(CheckpointError, match=r"stages\.2\.blocks\.3\.attn\.conv_proj_v\.bn"):
        load_cvt(model, {n: v for n, v in weights.items() if n != name})
    with pytest.raises(CheckpointError, match="not known there: surplus"):
        load_cvt(model, weights | dict(surplus=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"stages\.2\.blocks\.4"):
        load_cvt(model, weights | {"stage2.blocks.4.norm1.weight": torch.zeros(24)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(arch="cvt13"), "arch must be one of cvt_13, cvt_21, cvt_w24, or a dict; got 'cvt13'"),
        (dict(arch=dict(ARCH, width=3)), "arch as a dict takes embed_dims, depths, num_heads; got"),
        (dict(arch=dict(ARCH, depths=(1, 2))), "arch needs one entry for each stage"),
        (dict(arch=dict(ARCH, num_heads=(1, 2, 5))), "widths that are multiples of num_heads"),
        (dict(out_indices=(0, 1)), r"ascending stages of 0\.\.2 that end with 2, got \(0, 1\)"),
        (dict(out_indices=()), r"ascending stages of 0\.\.2 that end with 2, got \(\)"),
        (dict(out_type="map"), "out_type must be one of featmap"),
        (dict(drop_path_rate=1.0), r"drop_path_rate must be in \[0, 1\)"),
        (dict(schedule=None), "reducer and schedule go together"),
        (dict(reducer=dict(type="cropr_mm.ToMe")), "ToMe makes tokens of no cell:"),
        (dict(reducer=dict(type="cropr_mm.EViT")), "EViT makes tokens of no cell:"),
        (dict(reducer=dict(type="cropr_mm.SiT")), "SiT makes tokens of no cell"),
        (dict(reducer=dict(type="cropr_mm.DToP", num_classes=3)), "leave with their logits"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruned(**changes)
