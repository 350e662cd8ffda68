"""Weights under timm's and other published names become ours, and nothing gets lost on the way."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models.eva import Eva
from torch import Tensor, nn

from cropr_mm.backbones import CroprViT
from cropr_mm.checkpoints import CheckpointError, from_timm, load_backbone, to_timm

ARCHS = [
    "vit_tiny_patch16_224",
    "vit_huge_patch14_224",
    "deit_small_patch16_224",
    "deit3_medium_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "eva02_base_patch14_448",
    "eva02_large_patch14_clip_224",
]
DIMS: dict[str, Any] = dict(embed_dim=16, depth=2, num_heads=2, img_size=32, patch_size=8)
CROPR = dict(
    reducer=dict(type="cropr_mm.Cropr", num_classes=3),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 4}),
)
Weights = dict[str, Tensor]


def tiny(**options: Any) -> CroprViT:
    """A backbone with random weights; ``arch`` options and others may be mixed."""
    names = CroprViT.__init__.__annotations__
    arch = {k: v for k, v in options.items() if k not in names or k == "img_size"}
    rest = {k: v for k, v in options.items() if k in names and k != "img_size"}
    img_size = arch.pop("img_size", 32)
    return spread(CroprViT({**DIMS, **arch}, img_size=img_size, **rest))


def spread(model: nn.Module) -> Any:
    """Give every weight a random value; initial ones and zeros would hide mistakes."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.normal_()
    return model


def tiny_eva(**options: Any) -> Eva:
    base = dict(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5)
    return spread(Eva(**{**base, "swiglu_mlp": True, **options}))


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Messages of mmengine's logger."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Keep()
    logger = MMLogger.get_instance("checkpoints")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_name_and_shape_of_timm_has_its_place(arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch)
        backbone = CroprViT(arch)
    published = {k: v for k, v in model.state_dict().items() if not k.startswith("head")}
    weights, leftovers = from_timm(published, backbone)
    shapes = {name: value.shape for name, value in weights.items()}
    assert shapes == {name: value.shape for name, value in backbone.state_dict().items()}
    assert leftovers == []
    back, leftovers = to_timm(weights, model)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in published.items()}
    assert leftovers == []


EVA02 = dict(hidden_dim=24, mlp="swiglu", attn_bias="qv", rope="eva")
FORMS = {
    "split": (dict(qkv_fused=False, scale_mlp=True), dict(mlp_norm=True)),
    "fused": (dict(), dict()),
    "clip": (
        dict(qkv_fused=False, scale_mlp=True, scale_attn_inner=True),
        dict(mlp_norm=True, attn_norm=True),
    ),
    "scaled": (dict(init_values=0.1, swiglu_align_to=8), dict(layer_scale=0.1)),
}


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("form", FORMS)
def test_values_survive_the_way_there_and_back(form: str, pool: str) -> None:
    theirs, ours = FORMS[form]
    model = tiny_eva(mlp_ratio=1.5, use_rot_pos_emb=True, global_pool=pool, **theirs)
    backbone = tiny(**{**EVA02, **ours})
    published = model.state_dict()
    weights, leftovers = from_timm(published, backbone)
    assert leftovers == []
    assert weights.keys() == backbone.state_dict().keys()
    back, _ = to_timm(weights, model)
    assert same(back, {k: v for k, v in published.items() if not k.startswith("head")})
    again, _ = from_timm(weights, backbone)
    assert same(again, weights)


def test_parts_are_packed_in_the_order_of_the_layers() -> None:
    model = tiny_eva(mlp_ratio=1.5, qkv_fused=False, scale_mlp=True, use_rot_pos_emb=True)
    weights, _ = from_timm(model.state_dict(), tiny(**EVA02, mlp_norm=True))
    block = model.blocks[1]
    qkv = [block.attn.q_proj, block.attn.k_proj, block.attn.v_proj]
    packed = weights["blocks.1.attn.qkv.weight"]
    assert torch.equal(packed, torch.cat([layer.weight for layer in qkv]))
    packed = weights["blocks.1.mlp.fc1.weight"]
    assert torch.equal(packed, torch.cat([block.mlp.fc1_g.weight, block.mlp.fc1_x.weight]))
    assert torch.equal(weights["blocks.1.attn.q_bias"], block.attn.q_proj.bias)
    assert torch.equal(weights["norm.weight"], model.fc_norm.weight)


def as_official_dinov2(weights: Weights) -> Weights:
    """DINOv2's file: SwiGLU as w12 and w3, registers apart, the class token's position apart."""
    out = {
        k.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): v for k, v in weights.items()
    }
    out["mask_token"] = torch.zeros(1, 16)
    if "reg_token" in out:
        out["register_tokens"] = out.pop("reg_token")
        row = torch.full((1, 1, 16), 3.0)
        out["cls_token"] = out["cls_token"] - row
        out["pos_embed"] = torch.cat([row, out["pos_embed"]], 1)
    return out


@pytest.mark.parametrize("registers", [0, 4])
def test_official_dinov2_files_load(registers: int) -> None:
    swiglu = dict(mlp="swiglu", hidden_dim=24, layer_scale=1e-5, num_registers=registers)
    source = tiny(**swiglu, pos_embed_prefix=not registers)
    backbone = tiny(**swiglu, pos_embed_prefix=not registers)
    load_backbone(backbone, as_official_dinov2(source.state_dict()))
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, source.state_dict()[name], msg=name)


DINOV3 = dict(
    rope="dinov3", num_registers=4, pos_embed=False, layer_scale=1e-5, mlp="swiglu", hidden_dim=24
)


def as_official_dinov3(weights: Weights) -> Weights:
    """DINOv3's file: storage tokens, w1 to w3, one bias of queries, keys and values with a mask."""
    out: Weights = dict(mask_token=torch.zeros(1, 16))
    for name, value in weights.items():
        if name.endswith(("attn.q_bias", "attn.v_bias")):
            continue
        if ".mlp.fc1." in name:
            for part, chunk in zip(("w1", "w2"), value.chunk(2), strict=True):
                out[name.replace("fc1", part)] = chunk
            continue
        new = {"reg_token": "storage_tokens"}.get(name, name.replace("mlp.fc2", "mlp.w3"))
        out[new] = value
    for i in range(2):
        stem = f"blocks.{i}.attn."
        q, v = (weights.get(f"{stem}{n}_bias", torch.zeros(16)) for n in "qv")
        out[f"{stem}qkv.bias"] = torch.cat([q, torch.full((16,), 7.0), v])
        out[f"{stem}qkv.bias_mask"] = torch.ones(48)
    out["rope_embed.periods"] = torch.ones(2)
    return out


@pytest.mark.parametrize("attn_bias", ["qv", "none"])
def test_official_dinov3_files_load(attn_bias: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, backbone = (tiny(**DINOV3, attn_bias=attn_bias) for _ in range(2))
    load_backbone(backbone, as_official_dinov3(source.state_dict()))
    assert same(backbone.state_dict(), source.state_dict())
    assert capsys.readouterr().out == ""


def test_biases_that_are_not_zero_are_not_dropped() -> None:
    source = tiny(**DINOV3, attn_bias="qv")
    with pytest.raises(ValueError, match=r"-\s+blocks\.0\.attn\.q_bias"):
        load_backbone(tiny(**DINOV3, attn_bias="none"), as_official_dinov3(source.state_dict()))


def test_official_eva02_files_load() -> None:
    arch = {**EVA02, "mlp_norm": True, "attn_norm": True}
    source, backbone = tiny(**arch), tiny(**arch)
    weights, _ = to_timm(source.state_dict(), tiny_eva(mlp_ratio=1.5, **FORMS["clip"][0]))
    table = {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"}
    table |= {"mlp.norm": "mlp.ffn_ln", "attn.norm": "attn.inner_attn_ln", "fc_norm": "norm"}
    table |= {"q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    official: Weights = {}
    for name, value in weights.items():
        for ours, theirs in table.items():
            name = name.replace(ours, theirs)
        official[name] = value
    official |= {"mask_token": torch.ones(1, 1, 16), "lm_head.weight": torch.ones(3, 16)}
    official |= {"rope.freqs_cos": torch.ones(2), "blocks.0.attn.rope.freqs_sin": torch.ones(2)}
    load_backbone(backbone, dict(module=official))
    assert same(backbone.state_dict(), source.state_dict())


def test_gammas_of_deit3_files_become_layer_scales() -> None:
    arch = dict(layer_scale=1e-6, pos_embed_prefix=False)
    source, backbone = tiny(**arch), tiny(**arch)
    raw = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
        for k, v in source.state_dict().items()
    }
    load_backbone(backbone, dict(model={**raw, "head.weight": torch.ones(3, 16)}))
    assert same(backbone.state_dict(), source.state_dict())


@pytest.mark.parametrize("img_size", [(64, 64), (32, 96)])
def test_patches_and_positions_are_resampled(img_size: tuple[int, int], log: list[str]) -> None:
    source = tiny().state_dict()
    backbone = tiny(patch_size=16, img_size=img_size)
    load_backbone(backbone, source)
    kernel = resample_patch_embed(source["patch_embed.proj.weight"], [16, 16])
    assert torch.equal(backbone.patch_embed.proj.weight, kernel)
    expected = resample_abs_pos_embed(source["pos_embed"], list(backbone.grid), [4, 4])
    assert torch.equal(backbone.pos_embed, expected)
    assert torch.equal(backbone.pos_embed[:, 0], source["pos_embed"][:, 0])
    assert any("8x8 to 16x16 pixels" in line for line in log)
    if img_size == (32, 96):
        assert any("pos_embed: 4x4 to 2x6 patches" in line for line in log)


def test_grid_of_published_positions_is_square_and_of_our_own_the_same() -> None:
    source = tiny(img_size=(16, 64), **CROPR)
    plain = tiny(img_size=(32, 32))
    backbone = tiny(img_size=(16, 64), **CROPR)  # 16 patches, as many as the square has
    load_backbone(backbone, plain.state_dict())
    patches = resample_abs_pos_embed(plain.pos_embed, [2, 8], [4, 4])
    assert torch.equal(backbone.pos_embed, patches)
    checkpoint = dict(
        meta={}, state_dict={f"backbone.{k}": v for k, v in plain.state_dict().items()}
    )
    for own in (source.state_dict(), checkpoint):
        prefix = "backbone" if own is checkpoint else ""
        load_backbone(backbone, own, prefix)
        assert torch.equal(backbone.pos_embed, (plain if prefix else source).pos_embed)
    odd = tiny(img_size=(16, 40))
    load_backbone(tiny(img_size=(16, 40)), odd.state_dict())
    with pytest.raises(ValueError, match=r"expected rows for 4x4 patches.* got 11 rows"):
        load_backbone(tiny(), odd.state_dict())


@pytest.mark.parametrize("where", ["img_size", "arch"])
def test_grid_of_our_own_positions_is_that_of_the_stored_config(where: str, log: list[str]) -> None:
    source, backbone = tiny(img_size=(48, 80)), tiny(img_size=(80, 48))
    size = dict(img_size=(48, 80))
    settings = dict(arch={**DIMS, **size}) if where == "arch" else dict(arch="x", **size)
    cfg = Config(dict(lr=1e-3, model=dict(type="X", backbone=dict(type="CroprViT", **settings))))
    weights = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    checkpoint = dict(meta=dict(cfg=cfg.pretty_text), state_dict=weights)
    load_backbone(backbone, checkpoint, "backbone")
    turned = resample_abs_pos_embed(source.pos_embed, [10, 6], [6, 10])
    assert torch.equal(backbone.pos_embed, turned)
    assert any("pos_embed: 6x10 to 10x6 patches" in line for line in log)
    larger = tiny(img_size=(96, 160))
    load_backbone(larger, checkpoint, "backbone")
    grown = resample_abs_pos_embed(source.pos_embed, [12, 20], [6, 10])
    assert torch.equal(larger.pos_embed, grown)


@pytest.mark.parametrize("text", ["", "model = make()", "model = dict(", None])
def test_unknown_grid_of_our_own_positions_is_taken_as_it_is_with_a_word(
    text: str | None, log: list[str]
) -> None:
    source, backbone = tiny(img_size=(48, 80)), tiny(img_size=(80, 48))
    load_backbone(backbone, dict(meta=dict(cfg=text), state_dict=source.state_dict()))
    assert torch.equal(backbone.pos_embed, source.pos_embed)
    assert any("names no image size" in line and "10x6 patches" in line for line in log)


@pytest.mark.parametrize("prefix", [False, True])
def test_rows_that_could_be_either_are_read_as_the_architecture_has_them(prefix: bool) -> None:
    # 54 rows are 6x9 patches, or 7x7 patches and 5 prefix tokens.
    options = dict(num_registers=4, pos_embed_prefix=prefix)
    source = tiny(**options, img_size=(56, 56) if prefix else (48, 72))
    backbone = tiny(**options, img_size=(48, 72))
    assert source.pos_embed.shape[1] == 54
    load_backbone(backbone, source.state_dict())
    if prefix:
        assert torch.equal(backbone.pos_embed[:, :5], source.pos_embed[:, :5])
    else:
        assert torch.equal(backbone.pos_embed, source.pos_embed)


def test_class_token_that_the_config_drops_takes_its_position_along(log: list[str]) -> None:
    source = tiny().state_dict()
    backbone = tiny(with_cls_token=False)
    load_backbone(backbone, source)
    assert torch.equal(backbone.pos_embed, source["pos_embed"][:, 1:])
    assert any("has no cls_token" in line for line in log)
    assert any("1 to 0 rows of prefix tokens" in line for line in log)


def test_class_token_that_the_config_adds_keeps_its_initial_values(log: list[str]) -> None:
    source = tiny(with_cls_token=False).state_dict()
    backbone = tiny()
    token, row = backbone.cls_token.clone(), backbone.pos_embed[:, 0].clone()
    load_backbone(backbone, source)
    assert torch.equal(backbone.cls_token, token)
    assert torch.equal(backbone.pos_embed[:, 0], row)
    assert torch.equal(backbone.pos_embed[:, 1:], source["pos_embed"])
    assert any("keeps its initial value of cls_token" in line for line in log)


def test_positions_of_the_prefix_move_between_rows_and_tokens() -> None:
    rows, none = (tiny(num_registers=2, pos_embed_prefix=prefix) for prefix in (True, False))
    img = torch.randn(1, 3, 32, 32)
    before = none.state_dict()
    rows.eval(), none.eval()
    load_backbone(none, rows.state_dict())
    torch.testing.assert_close(none(img), rows(img))
    load_backbone(none, before)
    load_backbone(rows, before)
    torch.testing.assert_close(none(img), rows(img))


def test_final_norm_may_be_switched_off_or_added(log: list[str]) -> None:
    whole, bare = tiny(), tiny(final_norm=False)
    weight = whole.norm.weight.clone()
    load_backbone(bare, whole.state_dict())
    assert any("has no norm.bias, norm.weight" in line for line in log)
    load_backbone(whole, bare.state_dict())
    assert torch.equal(whole.norm.weight, weight)
    assert any("initial value of norm.weight, norm.bias" in line for line in log)


def test_relative_positions_are_resized_or_added(log: list[str]) -> None:
    plain = dict(with_cls_token=False)
    short, long = (tiny(use_rel_pos=True, img_size=s, **plain) for s in (32, (48, 32)))
    name = "blocks.0.attn.rel_pos_h"
    ramp = torch.arange(7.0)[:, None].expand(7, 8)
    load_backbone(long, {**short.state_dict(), name: ramp})
    table = long.state_dict()[name]
    assert table.shape == (11, 8)
    expected = ((torch.arange(11) + 0.5) * 7 / 11 - 0.5).clamp(0, 6)  # centers of equal cells
    torch.testing.assert_close(table[:, 0], expected)
    assert any("rel_pos_*: 7 to 11 rows (2 tensors)" in line for line in log)
    load_backbone(short, tiny(**plain).state_dict())
    assert any("initial value of blocks.0.attn.rel_pos_h" in line for line in log)
    load_backbone(tiny(**plain), short.state_dict())
    assert any("has no blocks.0.attn.rel_pos_h" in line for line in log)


def test_reducers_keep_their_values_or_load(log: list[str]) -> None:
    dense, pruned = tiny(), tiny(**CROPR)
    queries = pruned.reducers["0"].queries.clone()
    load_backbone(pruned, dense.state_dict())
    assert torch.equal(pruned.reducers["0"].queries, queries)
    assert torch.equal(pruned.cls_token, dense.cls_token)
    assert any("initial value of reducers.0" in line for line in log)
    other = tiny(**CROPR)
    load_backbone(other, pruned.state_dict())
    assert same(other.state_dict(), pruned.state_dict())
    with pytest.raises(ValueError, match=r"unexpected in the checkpoint\n.*reducers\.0"):
        load_backbone(dense, pruned.state_dict())


def test_missing_and_unexpected_names_are_listed_and_nothing_is_loaded() -> None:
    backbone = tiny()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    wrong = tiny().state_dict()
    wrong["blocks.0.attn.qkv.wait"] = wrong.pop("blocks.0.attn.qkv.weight")
    wrong["blocks.7.norm1.bias"] = torch.ones(16)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_backbone(backbone, wrong)
    lines = str(error.value).splitlines()
    assert lines[2].split() == ["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.wait"]
    assert lines[3].split() == ["-", "blocks.7.norm1.bias"]
    assert len({line.rindex("  ") for line in lines[1:]}) == 1
    assert same(backbone.state_dict(), before)


def test_shapes_are_compared_before_anything_is_loaded() -> None:
    backbone = tiny()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    wrong = {**tiny().state_dict(), "norm.weight": torch.ones(17)}
    with pytest.raises(ValueError, match=r"norm\.weight: expected \(16,\), got \(17,\)"):
        load_backbone(backbone, wrong)
    assert same(backbone.state_dict(), before)
    with pytest.raises(ValueError, match=r"cls_token: expected \(1, 1, 16\), got \(1, 1, 8\)"):
        load_backbone(backbone, tiny(embed_dim=8).state_dict())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pos_embed", torch.ones(17), r"expected shape \(1, rows, channels\), got \(17,\)"),
        ("pos_embed", torch.ones(1, 17, 8), r"pos_embed: expected .*16\), got \(1, 17, 8\)"),
        ("cls_token", torch.ones(16), r"cls_token: expected shape \(1, rows"),
        (3, torch.ones(1), "by name, got names like 3"),
    ],
)
def test_odd_rows_and_names_are_refused(name: object, value: Tensor, message: str) -> None:
    model = tiny()
    with pytest.raises(CheckpointError, match=message):
        load_backbone(model, {**model.state_dict(), name: value})


def test_two_sources_of_one_weight_are_refused() -> None:
    weights = tiny().state_dict()
    with pytest.raises(ValueError, match=r"one source of norm\.weight"):
        load_backbone(tiny(), {**weights, "fc_norm.weight": weights["norm.weight"]})


def test_training_checkpoints_load_by_prefix(tmp_path: Path) -> None:
    source = tiny(**CROPR)
    weights = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    weights["bbox_head.weight"] = torch.ones(2)
    torch.save(dict(meta=dict(epoch=1), state_dict=weights, optimizer={}), tmp_path / "x.pth")
    for prefix in ("backbone.", "backbone"):
        backbone = tiny(**CROPR)
        load_backbone(backbone, tmp_path / "x.pth", prefix)
        assert same(backbone.state_dict(), source.state_dict())
    with pytest.raises(ValueError, match=r"x\.pth.*prefix='backbone\.'"):
        load_backbone(tiny(**CROPR), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"start with 'encoder\.', got backbone\."):
        load_backbone(tiny(**CROPR), tmp_path / "x.pth", "encoder")
    with pytest.raises(ValueError, match="tensors only, got other values at epoch"):
        load_backbone(tiny(), dict(model=dict(epoch=3)))


def test_averaged_and_parallel_weights_are_found() -> None:
    source, other = tiny().state_dict(), tiny().state_dict()
    backbone = tiny()
    load_backbone(backbone, dict(state_dict=other, state_dict_ema=source))
    assert same(backbone.state_dict(), source)
    load_backbone(backbone, dict(model={f"module.{k}": v for k, v in other.items()}))
    assert same(backbone.state_dict(), other)


def test_init_cfg_loads_last() -> None:
    backbone = tiny(**CROPR)
    source = tiny(**CROPR).state_dict()
    backbone.init_cfg = dict(type="Pretrained", checkpoint=source)
    backbone.init_weights()
    assert same(backbone.state_dict(), source)
