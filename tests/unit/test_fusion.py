"""Fusions besides Last Layer Fusion, inside the encoder."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block

from cropr_mm import CroprViT
from cropr_mm.checkpoints import load_backbone
from cropr_mm.fusion.cross_attention import CrossAttentionBlock
from cropr_mm.profiling import encoder_cost

AFTER = {
    "concat": dict(type="cropr_mm.TokenConcat"),
    "self": dict(type="cropr_mm.SelfAttentionConcat"),
    "cross": dict(type="cropr_mm.CrossAttentionFusion"),
    "cross_concat": dict(type="cropr_mm.CrossAttentionFusion", concat=True),
}

CROPR = dict(type="cropr_mm.Cropr")
FUSIONS = AFTER | {
    "last_layer": dict(type="cropr_mm.LastLayerFusion"),
    "shortcut": dict(type="cropr_mm.ShortcutFusion"),
}
KEEPERS = {
    "ats": dict(type="cropr_mm.ATS"),
    "attn_topk": dict(type="cropr_mm.AttnTopK"),
    "cropr": CROPR,
    "dtps": dict(type="cropr_mm.DTPS"),
    "dynamic_vit": dict(type="cropr_mm.DynamicViT"),
    "etps": dict(type="cropr_mm.ETPS"),
    "evit": dict(type="cropr_mm.EViT"),
    "k_medoids": dict(type="cropr_mm.KMedoids"),
    "k_medoids_equal": dict(type="cropr_mm.KMedoids", equal_weight=True),
    "non_salient": dict(type="cropr_mm.NonSalient"),
    "radial": dict(type="cropr_mm.RadialPruner"),
    "random": dict(type="cropr_mm.RandomPruner"),
    "shortcut": dict(type="cropr_mm.ShortcutPruner"),
    "variance": dict(type="cropr_mm.VariancePruner"),
}


def encoder(fusion: dict | None, **options: Any) -> CroprViT:
    torch.manual_seed(0)
    defaults: dict[str, Any] = dict(
        arch=dict(embed_dim=32, depth=5, num_heads=2, rope="eva"),
        img_size=(48, 64),
        patch_size=8,
        reducer=dict(type="cropr_mm.VariancePruner"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 20, 2: 8}),
    )
    return CroprViT(**defaults | options, fusion=fusion).eval()


def record(model: CroprViT) -> list:
    """What enters and leaves the fusion."""
    seen: list = []
    model.fusion.register_forward_hook(lambda _m, args, full: seen.append((*args[:2], full)))
    return seen


@torch.no_grad()
def test_a_block_whose_queries_read_themselves_is_timms() -> None:
    block, plain = CrossAttentionBlock(16, 2), Block(16, 2, qkv_bias=True)
    weights = block.state_dict()
    for kind in ("weight", "bias"):
        parts = [weights.pop(f"{name}.{kind}") for name in ("q", "kv")]
        weights[f"attn.qkv.{kind}"] = torch.cat(parts)
        weights[f"attn.proj.{kind}"] = weights.pop(f"proj.{kind}")
        del weights[f"norm_memory.{kind}"]  # as it was made, like that of the queries
    plain.load_state_dict(weights)
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(block(x, x), plain(x))


@torch.no_grad()
@pytest.mark.parametrize("name", AFTER)
def test_acts_behind_the_last_block_and_fills_the_grid(name: str) -> None:
    model = encoder(AFTER[name])
    assert model.tokens_per_block() == [49, 21, 21, 9, 9]
    assert model.num_restored == 0
    assert encoder(dict(type="cropr_mm.LastLayerFusion")).num_restored == 1
    seen = record(model)
    (features,) = model(torch.randn(2, 3, 48, 64))
    ((kept, dropped, full),) = seen
    assert features.shape == (2, 32, 6, 8)
    assert (kept.index.shape[1], len(dropped)) == (8, 2)
    assert torch.equal(full.index, torch.arange(48).expand(2, -1))
    assert torch.equal(full.prefix, kept.prefix) or name == "self"


@torch.no_grad()
@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("method", KEEPERS)
def test_every_keeper_gives_each_cell_to_every_fusion_once(method: str, name: str) -> None:
    model = encoder(FUSIONS[name], reducer=KEEPERS[method])
    seen = record(model)
    (features,) = model(torch.randn(2, 3, 48, 64))
    ((kept, dropped, full),) = seen
    assert features.shape == (2, 32, 6, 8)
    assert features.isfinite().all()
    assert torch.equal(full.index, torch.arange(48).expand(2, -1))
    for image in range(2):
        live = kept.index[image] >= 0  # not the token that EViT made
        if kept.policy is not None:
            live &= kept.policy[image]  # not those that fill up ATS
        left = [part.index[image] for part in dropped]
        left = [part[part >= 0] for part in left]
        cells = torch.cat([kept.index[image][live], *left])
        assert cells.tolist() != list(range(48)), "else nothing left"
        assert cells.sort().values.tolist() == list(range(48))
        if name == "concat":
            mine = kept.index[image][live]
            assert torch.equal(full.patches[image, mine], kept.patches[image][live])


@torch.no_grad()
def test_concat_has_the_maps_of_no_fusion() -> None:
    images = torch.randn(2, 3, 48, 64)
    assert torch.equal(encoder(AFTER["concat"])(images)[0], encoder(None)(images)[0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["self", "cross", "cross_concat"])
def test_pruned_tokens_are_read_but_by_plain_cross_attention(name: str) -> None:
    model = encoder(AFTER[name])
    seen = record(model)
    model(torch.randn(1, 3, 48, 64))
    kept, dropped, full = seen[0]
    changed = [part._replace(x=part.x + 1) for part in dropped]
    again = model.fusion(kept, changed, None)
    live = kept.index[0]
    assert torch.equal(again.patches[:, live], full.patches[:, live]) == (name == "cross")
    moved = kept._replace(x=kept.x + torch.randn_like(kept.x))
    assert not torch.allclose(model.fusion(moved, dropped, None).patches, full.patches)


@torch.no_grad()
@pytest.mark.parametrize("name", AFTER)
def test_cells_of_windows_are_where_they_belong(name: str) -> None:
    """The order of the tokens is the model's, that of maps is the raster."""
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 20, 2: 8})
    model = encoder(
        AFTER[name],
        arch=dict(embed_dim=32, depth=5, num_heads=2, rope="eva", cls_token=False),
        window_size=2,
        global_block_indexes=[0, 4],
        schedule=schedule,
        final_norm=False,
    )
    seen = record(model)
    (features,) = model(torch.randn(1, 3, 48, 64))
    full = seen[0][2]
    assert not torch.equal(full.index, torch.arange(48)[None])
    cells = features[0].flatten(1).t()  # (48, C)
    assert torch.equal(cells[full.index[0]], full.patches[0])
    if name == "cross":  # every cell asks with its own query, whatever the order
        raster = model.fusion(*seen[0][:2], None)
        torch.testing.assert_close(raster.patches[0], cells)


@torch.no_grad()
def test_queries_are_resampled_for_another_image_size() -> None:
    model = encoder(AFTER["cross"], schedule=dict(type="cropr_mm.ConstantRate", rate=3))
    assert model(torch.randn(1, 3, 64, 32))[0].shape == (1, 32, 8, 4)


def test_weights_of_a_dense_model_load() -> None:
    dense = encoder(None).state_dict()
    dense = {name: value for name, value in dense.items() if not name.startswith("reducers")}
    model = encoder(AFTER["cross_concat"])
    load_backbone(model, dense)
    assert torch.equal(model.blocks[0].attn.qkv.weight, dense["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    ("fusion", "reducer", "gmacs", "millions"),
    [
        (dict(type="cropr_mm.LastLayerFusion"), CROPR, 183, 304),
        (AFTER["concat"], CROPR, 172, 304),
        (AFTER["self"], CROPR, 186, 318),
        (AFTER["cross"], CROPR, 184, 319),
        (AFTER["cross_concat"], CROPR, 186, 319),
        (None, dict(type="cropr_mm.DToP", num_classes=150), 174, 308),
    ],
)
def test_cost_is_the_published_one(
    fusion: dict | None, reducer: dict, gmacs: int, millions: int
) -> None:
    """Table 5 of the paper: EVA-02-L, 512 pixels, 40 tokens at each step."""
    with torch.device("meta"):
        model = CroprViT(
            "eva02_large_patch14_448",
            img_size=512,
            patch_size=16,
            reducer=reducer,
            # Without fusion a constant rate would have one step more.
            schedule=dict(type="cropr_mm.Stages", rate=40, blocks=range(22)),
            fusion=fusion,
        ).eval()
    cost = encoder_cost(model)
    assert round((cost.params_deployed + 150 * 1025) / 1e6) == millions  # a linear head
    assert round((cost.macs.linear + 150 * 1024 * 32**2) / 1e9) == gmacs


def test_exits_cost_one_linear_classifier_a_step() -> None:
    """Table 5 of the paper: 174 GMAC; 22 heads of LayerNorm and linear layer come on top."""
    with torch.device("meta"):
        dense, exits = (
            CroprViT("eva02_large_patch14_448", img_size=512, patch_size=16, **options).eval()
            for options in (
                dict(),
                dict(
                    reducer=dict(type="cropr_mm.DToP", num_classes=150),
                    schedule=dict(type="cropr_mm.Stages", rate=40, blocks=range(22)),
                ),
            )
        )
    costs = encoder_cost(dense), encoder_cost(exits)
    more = costs[1].params_deployed - costs[0].params_deployed
    assert more == 22 * (2 * 1024 + 150 * 1024 + 150)
    gmacs = (costs[1].macs.linear + 150 * 1024 * 32**2) / 1e9  # a linear head
    assert 173.8 < gmacs < 174.2
