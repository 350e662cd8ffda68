"""PS-ViT: progressive sampling in front of CroprViT, against plain lines on published names."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hosts_of_reducers import (
    check_dead_places_are_gone,
    check_deployed_keeps_the_same,
    check_masking_is_dropping,
    check_predictors_learn,
    explicit,
    randomize,
)
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.checkpoints import CheckpointError, load_backbone
from cropr_mm.layers.arch import ARCHS
from cropr_mm.profiling.encoder_cost import encoder_cost

SIZE = (64, 96)  # 4 x 6 points, a map of 16 x 24
STEPS, DEPTH = 3, 4
TINY = dict(
    vars(ARCHS["ps_vit_b_14"]),
    **dict(embed_dim=24, depth=DEPTH, num_heads=3, hidden_dim=40, conv_stem=4),
    sampling_steps=STEPS,
)
KEEP = {0: 16, 1: 9}
CROPR = dict(type="cropr_mm.Cropr", num_queries=2, num_classes=3)


def pruned(**changes: Any) -> CroprViT:
    settings: dict[str, Any] = dict(reducer=CROPR, schedule=explicit(KEEP), out_type="cls_token")
    model = CroprViT(TINY, SIZE, **settings | changes)
    randomize(model)
    for layer in model.patch_embed.layers[:-1]:
        layer.offset_layer.weight.data *= 0.5  # so that some points leave the map, not all
        layer.offset_layer.bias.data -= 1
    return model.eval()


def dense(**changes: Any) -> CroprViT:
    return pruned(reducer=None, schedule=None, **changes)


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our names under the names of yuexy/PS-ViT, with what else its files hold."""
    names = {
        "patch_embed.stem.": "stem.",
        "patch_embed.pos_layer.": "pos_layer.",
        "patch_embed.layers.": "ps_layers.",
        ".block.": ".transformer_layer.",
        "blocks.": "trans_layers.",
    }
    weights = {}
    for name, value in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if not name.startswith("reducers."):
            weights[name] = value
    for i in range(STEPS):
        for part in ("weight", "bias"):
            weights[f"ps_layers.{i}.position_layer.{part}"] = weights[f"pos_layer.{part}"]
    return weights | {"point_coord": torch.zeros(1, 24, 2), "head.weight": torch.zeros(5, 24)}


def bilinear(cells: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Value (C,) of a map (C, H, W) at a point; each corner that is outside counts as zero."""
    top, left = int(y.detach().floor()), int(x.detach().floor())
    value = torch.zeros(len(cells))
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < cells.shape[1] and 0 <= j < cells.shape[2]:
                share = (1 - (y - i).abs()) * (1 - (x - j).abs())
                value = value + share * cells[:, i, j]
    return value


def plain(w: dict[str, Tensor], img: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens after the last norm, points in column order, (B, 1 + N, C), and the last points."""

    def linear(y: Tensor, name: str) -> Tensor:
        return F.linear(y, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, (24,), w[f"{name}.weight"], w[f"{name}.bias"])

    def conv(y: Tensor, name: str, bn: str, **options: Any) -> Tensor:
        y = F.conv2d(y, w[f"{name}.weight"], **options)
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *(w[f"{bn}.{part}"] for part in parts))

    def block(y: Tensor, name: str) -> Tensor:
        q, k, v = linear(norm(y, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (q, k, v))
        out = ((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = y + linear(out, f"{name}.attn.proj")
        out = F.gelu(linear(norm(y, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return y + linear(out, f"{name}.mlp.fc2")

    x = conv(img, "stem.0", "stem.1", stride=2, padding=3).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for i in (4, 5):
        s = f"stem.{i}"
        y = conv(x, f"{s}.conv1", f"{s}.bn1").relu()
        y = conv(y, f"{s}.conv2", f"{s}.bn2", padding=1).relu()
        y = conv(y, f"{s}.conv3", f"{s}.bn3")
        if f"{s}.downsample.0.weight" in w:
            x = conv(x, f"{s}.downsample.0", f"{s}.downsample.1")
        x = (x + y).relu()
    height, width = x.shape[2:]
    columns, rows = width // 4, height // 4
    places = [[4 * j + 2.0, 4 * i + 2.0] for i in range(columns) for j in range(rows)]
    place = torch.tensor(places).expand(len(x), -1, -1)  # (y, x)
    tokens: Any = 0
    for i in range(STEPS):
        p = f"ps_layers.{i}"
        values = [[bilinear(c, *point) for point in ps] for c, ps in zip(x, place, strict=True)]
        sampled = torch.stack([torch.stack(row) for row in values])
        shares = place.detach() / torch.tensor([height, width])
        tokens = block(sampled + linear(shares, "pos_layer") + tokens, f"{p}.transformer_layer")
        if i < STEPS - 1:
            place = place.detach() + linear(tokens, f"{p}.offset_layer")
    tokens = torch.cat([w["cls_token"].expand(len(x), -1, -1), tokens], dim=1)
    for i in range(DEPTH):
        tokens = block(tokens, f"trans_layers.{i}")
    return norm(tokens, "norm"), place


def raster(tokens: Tensor) -> Tensor:
    """Tokens in column order, class token first, brought to raster order."""
    patches = tokens[:, 1:].unflatten(1, (6, 4)).transpose(1, 2).flatten(1, 2)
    return torch.cat([tokens[:, :1], patches], dim=1)


@torch.no_grad()
def test_published_names_load_and_tokens_are_those_of_plain_lines() -> None:
    weights = published(dense().state_dict())
    model = CroprViT(TINY, SIZE, out_type="raw").eval()
    load_backbone(model, weights)
    img = torch.randn(2, 3, *SIZE)
    expected, place = plain(weights, img)
    outside = (place < 0) | (place > torch.tensor([15, 23]))
    assert 0 < outside.float().mean() < 0.5, "some points left the map"
    torch.testing.assert_close(model(img)[0], raster(expected), rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_plain_lines() -> None:
    model = dense(out_type="raw")
    leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    weights = published({**model.state_dict(), **leaves})
    img = torch.randn(1, 3, *SIZE)
    model(img)[0].square().mean().backward()
    plain(weights, img)[0].square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, leaves[name].grad, rtol=1e-3, atol=1e-5, msg=name
        )
    assert model.patch_embed.layers[0].offset_layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "millions", "giga"), [("ps_vit_ti_14", 4.8, 1.6), ("ps_vit_b_14", 21.3, 5.4)]
)
def test_models_have_the_published_parameters_and_cost(
    name: str, millions: float, giga: float
) -> None:
    with torch.device("meta"):
        model = CroprViT(name, out_type="cls_token").eval()
    cost = encoder_cost(model)
    head = model.embed_dim * 1000
    assert round((cost.params_deployed + head + 1000) / 1e6, 1) == millions
    assert round((cost.macs.total + head) / 1e9, 1) == giga


@torch.no_grad()
def test_points_start_in_the_centers_of_patches_and_stay_there_until_they_learn() -> None:
    torch.manual_seed(0)
    embed = CroprViT(TINY, SIZE).eval().patch_embed
    img = torch.randn(1, 3, *SIZE)
    cells, seen, tokens = embed.stem(img), [], [torch.zeros(1)]
    for layer in embed.layers:
        layer.block.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        layer.block.register_forward_hook(lambda _m, _a, out: tokens.append(out[0]))
    embed(img)
    at_centers = cells[0, :, 2::4, 2::4].flatten(1).mT
    centers = torch.cartesian_prod(torch.arange(4) + 0.5, torch.arange(6) + 0.5)
    positions = embed.pos_layer(centers / torch.tensor([4, 6]))
    assert len(seen) == STEPS
    for x, before in zip(seen, tokens, strict=False):
        torch.testing.assert_close(x[0], at_centers + positions + before[0])


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_masking_in_training_is_dropping_in_evaluation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_masking_is_dropping(pruned, name, list(KEEP), torch.randn(1, 3, *SIZE), monkeypatch)


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_the_loss_of_the_model_reaches_every_predictor(name: str) -> None:
    model = pruned(reducer=dict(type=f"cropr_mm.{name}"))
    check_predictors_learn(model, torch.randn(2, 3, *SIZE))


@torch.no_grad()
def test_dead_places_are_as_if_they_had_left() -> None:
    model = pruned(reducer=dict(type="cropr_mm.ATS"), schedule=explicit({0: 20, 2: 12}))
    for block in model.blocks:  # else attention is too even to leave a place dead
        block.attn.qkv.weight[:24].mul_(12)
    counts = check_dead_places_are_gone(model, torch.randn(1, 3, *SIZE))
    assert 12 < counts[0] < 20, "some places are dead"
    assert 0 < counts[1] < 12, "and later too"


@torch.no_grad()
@pytest.mark.parametrize("fusion", [None, dict(type="cropr_mm.LastLayerFusion")])
def test_maps_have_each_token_where_its_point_started(fusion: dict[str, Any] | None) -> None:
    model = pruned(fusion=fusion, out_type="featmap")
    steps: list[Any] = []
    model.reducers["0"].register_forward_hook(lambda _m, args, out: steps.append((args[0], out)))
    img = torch.randn(2, 3, *SIZE)
    (got,) = model(img)
    ((entered, (kept, dropped, _)),) = steps
    assert got.shape == (2, 24, 4, 6)
    assert torch.equal(entered.index, torch.arange(24).expand(2, -1))
    assert kept.index.shape[1] == KEEP[0]
    if fusion is None:
        cells = got.flatten(2).mT.gather(1, dropped.index[..., None].expand(-1, -1, 24))
        torch.testing.assert_close(cells, model.norm(dropped.x))


@pytest.mark.parametrize("name", ["AttnTopK", "EViT", "ETPS", "ToMe", "RandomPruner", "DPCKNN"])
def test_other_methods_run_at_any_size(name: str) -> None:
    ratios = dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[0, 1])
    model = pruned(reducer=dict(type=f"cropr_mm.{name}"), schedule=ratios)
    model(torch.randn(1, 3, 80, 112))[0].sum().backward()
    assert model.patch_embed.layers[0].offset_layer.weight.grad.abs().sum() > 0


def test_deployed_it_keeps_the_same_tokens() -> None:
    check_deployed_keeps_the_same(pruned, torch.randn(2, 3, *SIZE))


def test_checkpoints_load_strictly() -> None:
    source = pruned()
    weights = published(source.state_dict())
    model = pruned()
    load_backbone(model, source.state_dict())
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in source.state_dict().items())
    with pytest.raises(CheckpointError, match=r"patch_embed\.layers\.0\.offset_layer\.bias"):
        load_backbone(model, {n: v for n, v in weights.items() if "ps_layers.0.offset" not in n})
    with pytest.raises(CheckpointError, match="not known there: surplus"):
        load_backbone(model, weights | dict(surplus=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"blocks\.4\.norm1\.weight"):
        load_backbone(model, weights | {"trans_layers.4.norm1.weight": torch.zeros(24)})


def test_frozen_with_the_embedding_the_sampling_does_not_learn() -> None:
    model = pruned(frozen_stages=0).train()
    assert not any(p.requires_grad for p in model.patch_embed.parameters())
    assert not model.patch_embed.stem[1].training


@pytest.mark.parametrize(
    ("arch", "changes", "message"),
    [
        (dict(conv_stem=None), {}, "sampling_steps must be at least 0, and needs a conv_stem"),
        (dict(sampling_steps=-1), {}, "sampling_steps must be at least 0"),
        (dict(rope="eva"), {}, "needs a conv_stem and no rope, got 3"),
        ({}, dict(patch_size=2), "sampling_steps needs patch_size >= 4, got 2"),
        ({}, dict(window_size=2, with_cls_token=False), "moves tokens out of their cells"),
        ({}, dict(use_rel_pos=True, with_cls_token=False), "moves tokens out of their cells"),
        ({}, dict(pad_first=True), "moves tokens out of their cells"),
        (
            {},
            dict(reducer=dict(type="cropr_mm.VariancePruner")),
            "VariancePruner looks at the cells",
        ),
        (
            {},
            dict(reducer=dict(type="cropr_mm.RadialPruner")),
            "RadialPruner looks at the cells of",
        ),
    ],
)
def test_what_has_no_meaning_there_is_refused(arch: dict, changes: dict, message: str) -> None:
    settings: dict[str, Any] = dict(reducer=CROPR, schedule=explicit(KEEP))
    with pytest.raises(ValueError, match=message):
        CroprViT(TINY | arch, SIZE, **settings | changes)
