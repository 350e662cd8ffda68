"""Merged and fused tokens inside the encoder: positions, attention, maps and means."""

from typing import Any

import pytest
import torch

from cropr_mm import CroprViT
from cropr_mm.layers.attention import Attention, Geometry
from cropr_mm.ops.rope import rope_table
from cropr_mm.schedules import ExplicitTokens
from cropr_mm.structures import Tokens
from cropr_mm.tokens.merge import merge_tokens
from cropr_mm.tokens.restore import restore_tokens

ARCH: dict[str, Any] = dict(embed_dim=32, depth=5, num_heads=2, rope="eva")
REL_POS = dict(use_rel_pos=True, with_cls_token=False)
TOME: dict[str, Any] = dict(
    reducer=dict(type="cropr_mm.ToMe"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 28, 2: 16}),
)
EVIT: dict[str, Any] = dict(
    reducer=dict(type="cropr_mm.EViT"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 20, 1: 12, 2: 5}),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)


def encoder(**options: Any) -> CroprViT:
    torch.manual_seed(0)
    return CroprViT(**dict(arch=ARCH, img_size=(48, 64), patch_size=8) | options).eval()


@torch.no_grad()
def test_a_map_has_a_copy_of_a_merged_token_in_each_of_its_cells() -> None:
    model = encoder(**TOME, final_norm=False)
    steps, last = [], []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _args, result: steps.append(result.assignment))
    model.blocks[-1].register_forward_hook(lambda _m, _args, result: last.append(result[0]))
    (features,) = model(torch.randn(2, 3, 48, 64))
    assert features.shape == (2, 32, 6, 8)
    assert model.tokens_per_block() == [49, 29, 29, 17, 17]
    for image in range(2):
        for cell in range(48):
            slot = steps[1][image, steps[0][image, cell]]
            expected = last[0][image, 1 + slot]
            assert torch.equal(features[image, :, cell // 8, cell % 8], expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["SiT", "PatchMerger", "Sinkhorn"])
def test_a_map_has_in_each_cell_the_slot_that_its_token_weighs_most_in(name: str) -> None:
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={1: 9, 3: 4})
    model = encoder(reducer=dict(type=f"cropr_mm.{name}"), schedule=schedule, final_norm=False)
    assert [reducer.num_slots for reducer in model.reducers.values()] == [9, 4]
    steps, last = [], []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _args, result: steps.append(result.assignment))
    model.blocks[-1].register_forward_hook(lambda _m, _args, result: last.append(result[0]))
    (features,) = model(torch.randn(1, 3, 48, 64))
    slots = steps[1][0, steps[0][0]]
    assert torch.equal(features[0].flatten(1).t(), last[0][0, 1:][slots])
    model.schedule = ExplicitTokens(num_keep={1: 8, 3: 4})
    with pytest.raises(ValueError, match=f"{name} has 9 slots"):
        model(torch.randn(1, 3, 48, 64))


@torch.no_grad()
def test_means_weight_merged_tokens_by_their_cells() -> None:
    images = torch.randn(2, 3, 48, 64)
    mean = encoder(**TOME, final_norm=False, out_type="avg_featmap")(images)[0]
    features = encoder(**TOME, final_norm=False)(images)[0]
    torch.testing.assert_close(mean, features.mean(dim=(2, 3)))


@torch.no_grad()
def test_a_large_token_attends_as_its_copies_would() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).eval()
    one = torch.randn(1, 3, 8)
    copies = one[:, [0, 1, 1, 1, 2]]
    size = torch.tensor([[1.0, 3.0, 1.0]])
    for needs in (frozenset(), frozenset({"cls_row", "column_mean"})):
        merged, signals = attention(one, Geometry(key_bias=size.log()), needs)
        apart, _ = attention(copies, Geometry())
        torch.testing.assert_close(merged, apart[:, [0, 1, 4]])
    _, apart_signals = attention(copies, Geometry(), frozenset({"cls_row"}))
    torch.testing.assert_close(signals["cls_row"][:, 1], apart_signals["cls_row"][:, 1:4].sum(1))


@torch.no_grad()
def test_proportional_attention_is_an_option_of_the_method() -> None:
    images = torch.randn(1, 3, 48, 64)
    plain = encoder(**TOME)
    proportional = encoder(
        reducer=dict(type="cropr_mm.ToMe", proportional=True), schedule=TOME["schedule"]
    )
    assert not torch.equal(plain(images)[0], proportional(images)[0])
    assert torch.equal(plain.unpruned()(images)[0], proportional.unpruned()(images)[0])


@torch.no_grad()
def test_fusion_gives_every_cell_its_own_token_and_leaves_fused_ones_out() -> None:
    model = encoder(**EVIT, final_norm=False)
    seen = []
    model.fusion.register_forward_hook(lambda _m, args, full: seen.append((*args[:2], full)))
    model(torch.randn(2, 3, 48, 64))
    ((kept, dropped, full),) = seen
    parts = torch.cat([kept.index, *(part.index for part in dropped)], dim=1)
    assert parts.shape[1] == 48 + 3, "a fused token of each step"
    assert torch.equal((parts < 0).sum(1), torch.tensor([3, 3]))
    assert torch.equal(full.index, torch.arange(48).expand(2, -1))
    for part in dropped:
        for image, place in (part.index >= 0).nonzero().tolist():
            cell = part.index[image, place]
            assert torch.equal(full.patches[image, cell], part.x[image, place])


@torch.no_grad()
def test_evit_keeps_as_many_real_tokens_as_its_rate_says_and_fuses_the_others() -> None:
    ratios = dict(type="cropr_mm.KeepRatios", ratio=0.7, blocks=[3, 6, 9])
    arch = dict(embed_dim=16, depth=12, num_heads=2)
    evit = dict(reducer=dict(type="cropr_mm.EViT"), schedule=ratios)
    model = encoder(arch=arch, img_size=224, patch_size=16, out_type="cls_token", **evit)
    kept = []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _args, result: kept.append(result.kept))
    model(torch.randn(1, 3, 224, 224))
    # k = 137, 96, 67 of the published schedule; k + 1 + the class token go on.
    assert [tokens.x.shape[1] for tokens in kept] == [139, 98, 69]
    assert (kept[0].index >= 0).sum() == 137
    assert model.tokens_per_block() == [197] * 4 + [139] * 3 + [98] * 3 + [69] * 2
    model.progress = 0.0  # a curriculum begins with all tokens and fuses none
    assert model.num_keep() == {3: 196, 6: 196, 9: 196}


def test_a_token_without_a_cell_is_not_rotated() -> None:
    positions = encoder().positions
    tables = positions.tables((6, 8), torch.device("cpu"))
    tokens = Tokens(torch.zeros(1, 4, 32), torch.tensor([[5, 0, -1]]), (6, 8), 1)
    rope = positions.geometry(tokens, tables, windowed=False).rope
    assert torch.equal(rope.cos[0, 1:3], tables.rope.cos[[5, 0]])
    for row in (0, 3):  # the class token and the fused one
        assert bool((rope.cos[0, row] == 1).all())
        assert bool((rope.sin[0, row] == 0).all())


@torch.no_grad()
@pytest.mark.parametrize("rope", ["eva", "dinov3"])
def test_a_fused_token_lies_in_the_mean_of_what_it_was_made_of(rope: str) -> None:
    """Weighted by attention, step after step, and rotated as a token there; others as ever."""
    arch = ARCH | dict(rope=rope)
    model = encoder(**EVIT | dict(arch=arch, synthetic_rope="mean"))
    steps, geometries = [], []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, args, out: steps.append((*args, out)))
    model.blocks[3].register_forward_pre_hook(lambda _m, args: geometries.append(args[1]))
    model(torch.randn(2, 3, 48, 64))
    where = torch.stack([torch.arange(48) // 8, torch.arange(48) % 8], dim=1).float()
    place = dict.fromkeys(range(2), where)
    for tokens, _, signals, result in steps:
        for image in range(2):
            ids = [tuple(row) for row in tokens.position[image].tolist()]
            kept = {tuple(row) for row in result.kept.position[image, :-1].tolist()}
            out = torch.tensor([place not in kept for place in ids])
            weight = signals.cls_row[image][out]
            expected = (place[image][out] * weight[:, None]).sum(0) / weight.sum()
            torch.testing.assert_close(result.kept.position[image, -1], expected)
            place[image] = result.kept.position[image]
    plain = encoder(**EVIT | dict(arch=arch)).positions
    tables = plain.tables((6, 8), torch.device("cpu"))
    kept, geometry = steps[-1][-1].kept, geometries[0]
    real = kept.index[:, :-1]
    torch.testing.assert_close(geometry.rope.cos[:, 1:-1], tables.rope.cos[real])
    torch.testing.assert_close(geometry.rope.sin[:, 1:-1], tables.rope.sin[real])
    assert bool((geometry.rope.cos[:, 0] == 1).all()), "the class token is not rotated"
    y, x = kept.position[:, -1].unbind(dim=1)
    made = rope_table(y, x, (6.0, 8.0), 16, model.positions.spec)
    torch.testing.assert_close(geometry.rope.cos[:, -1], made.cos)
    torch.testing.assert_close(geometry.rope.sin[:, -1], made.sin)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ToMe", "DPCKNN", "SiT", "PatchMerger", "Sinkhorn"])
def test_merged_tokens_can_lie_in_the_mean_of_their_cells(name: str) -> None:
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 28, 2: 16})
    options = dict(reducer=dict(type=f"cropr_mm.{name}"), schedule=schedule)
    model, plain = encoder(**options, synthetic_rope="mean"), encoder(**options)
    kept = []
    model.reducers["2"].register_forward_hook(lambda _m, _args, result: kept.append(result.kept))
    images = torch.randn(2, 3, 48, 64)
    torch.manual_seed(1)
    (features,) = model(images)
    torch.manual_seed(1)
    assert not torch.equal(features, plain(images)[0])
    position = kept[0].position
    assert position.shape == (2, 16, 2)
    if name == "ToMe":  # by size, hence plain means of the cells
        cells = torch.stack([torch.arange(48) // 8, torch.arange(48) % 8], dim=1).float()
        for image in range(2):
            for slot in range(16):
                mine = cells[kept[0].source[image] == slot]
                torch.testing.assert_close(position[image, slot], mine.mean(0))
    rounding = 1e-5  # learned weights add up to one but for it
    assert bool((position >= -rounding).all())
    assert bool((position <= torch.tensor([5.0, 7.0]) + rounding).all())


def test_merging_again_follows_the_first_cells() -> None:
    tokens = Tokens(torch.arange(4.0)[None, :, None], torch.tensor([[3, 1, 0, 2]]), (2, 2))
    once = merge_tokens(tokens, torch.tensor([[0, 1, 1, 2]]), 3)
    assert once.source.tolist() == [[1, 1, 2, 0]]
    twice = merge_tokens(once, torch.tensor([[0, 1, 0]]), 2)
    assert twice.source.tolist() == [[1, 1, 0, 0]]
    assert restore_tokens(twice, [], None).x[0, :, 0].tolist() == [1.5, 1.5, 1.5, 1.5]
    assert restore_tokens(once, [], torch.tensor([3, 2, 1, 0])).x[0, :, 0].tolist() == [
        0,
        3,
        1.5,
        1.5,
    ]
    with pytest.raises(ValueError, match="merged tokens or dropped ones, got both"):
        restore_tokens(once, [Tokens(torch.zeros(1, 1, 1), torch.zeros(1, 1).long(), (2, 2))], None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**TOME, "fusion": dict(type="cropr_mm.LastLayerFusion")}, "ToMe merges .* fusion=None"),
        (
            {**TOME, "synthetic_rope": "slot"},
            "synthetic_rope must be one of none, mean; got 'slot'",
        ),
        (
            {**TOME, "synthetic_rope": "mean", "arch": ARCH | dict(rope=None)},
            "expected a reducer .* with RoPE, got rope=None and such reducer",
        ),
        (
            {**TOME, "synthetic_rope": "mean", "reducer": dict(type="cropr_mm.RandomPruner")},
            "got rope='eva' and no such reducer",
        ),
        ({**TOME, **REL_POS}, "ToMe makes tokens that belong to no cell"),
        (
            {**EVIT, **REL_POS, "reducer": dict(type="cropr_mm.EViT", signal="column_mean")},
            "EViT makes tokens that belong to no cell",
        ),
        (
            {**TOME, "window_size": 2, "global_block_indexes": [3], "with_cls_token": False},
            "ToMe makes tokens .* window_size=None",
        ),
        ({**EVIT, "with_cls_token": False}, "EViT reads the attention of the class token"),
        (
            {**TOME, "schedule": dict(type="cropr_mm.ExplicitTokens", num_keep={0: 10})},
            "ToMe expected num_keep >= 24 of 48 patch tokens in one step, got 10",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**options)
