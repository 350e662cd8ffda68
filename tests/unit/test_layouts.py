"""Encoders as other projects store them load into ours and compute the same features."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import RotaryEmbeddingCat
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.checkpoints import CheckpointError
from cropr_mm.checkpoints.load import load_backbone
from cropr_mm.layers.arch import ARCHS, HUB_NAMES, resolve_arch

SIDE = 56
VIT = dict(embed_dim=32, depth=3, num_heads=2, hidden_dim=64, patch_size=14, img_size=SIDE)
DINOV2 = dict(VIT, layer_scale=1.0)
REGISTERS = dict(DINOV2, num_registers=4, pos_embed_prefix=False)
GIANT = dict(DINOV2, mlp="swiglu")
DINOV3 = dict(
    DINOV2, attn_bias="qv", norm_eps=1e-5, num_registers=4, pos_embed=False, rope="dinov3"
)
DINOV3_GATED = dict(DINOV3, mlp="swiglu")
EVA02 = dict(VIT, mlp="swiglu", attn_bias="qv", rope="eva")
EVA02_NORM = dict(EVA02, mlp_norm=True)

Weights = dict[str, Tensor]


def jitter(model: nn.Module) -> nn.Module:
    """Random numbers for all parameters, so that each one counts."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.05 * torch.randn_like(parameter) + ("norm" in name))
    model.eval()  # which mmpretrain's encoders do not return
    return model


def encoder(arch: dict[str, Any]) -> CroprViT:
    return CroprViT(arch=arch, img_size=SIDE, out_type="featmap").eval()


def renamed(weights: Weights, names: dict[str, str]) -> Weights:
    out = {}
    for name, value in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        out[name] = value
    return out


def split(weights: Weights, whole: str, parts: tuple[str, ...]) -> Weights:
    out = {}
    for name, value in weights.items():
        if whole in name:
            chunks = value.chunk(len(parts))
            out |= {name.replace(whole, p): c for p, c in zip(parts, chunks, strict=True)}
        else:
            out[name] = value
    return out


def with_class_position(weights: Weights) -> Weights:
    """As published: positions have a row for the class token, which ours has added already."""
    row = torch.randn_like(weights["cls_token"])
    positions = torch.cat([row, weights["pos_embed"]], dim=1)
    return weights | {"cls_token": weights["cls_token"] - row, "pos_embed": positions}


EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "blocks.": "encoder.layer.",
    "attn.proj": "attention.output.dense",
}
SCALES = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}


def hf_vit(weights: Weights) -> Weights:
    names = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    parts = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
    out = renamed(split(weights, "attn.qkv", parts), {**EMBEDDINGS, **names})
    out = {("layer" + name if name.startswith("norm.") else name): v for name, v in out.items()}
    out |= {"pooler.dense.weight": torch.ones(2, 2)}
    return {f"vit.{name}": value for name, value in out.items()} | {
        "classifier.weight": torch.ones(2, 2),
        "decoder.mask_token": torch.ones(1),
    }


def hf_dinov2(weights: Weights) -> Weights:
    parts = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
    names = {**EMBEDDINGS, **SCALES, "reg_token": "embeddings.register_tokens"}
    out = renamed(split(weights, "attn.qkv", parts), names)
    out = {("layer" + name if name.startswith("norm.") else name): v for name, v in out.items()}
    return out | {"embeddings.mask_token": torch.ones(1, 32)}


def hf_dinov2_registers(weights: Weights) -> Weights:
    return hf_dinov2(with_class_position(weights))


def hf_dinov2_giant(weights: Weights) -> Weights:
    return renamed(hf_dinov2(weights), {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"})


def hf_dinov3(weights: Weights) -> Weights:
    names = {
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "patch_embed.proj": "embeddings.patch_embeddings",
        "blocks.": "layer.",
        "attn.q_bias": "attention.q_proj.bias",
        "attn.v_bias": "attention.v_proj.bias",
        "attn.proj": "attention.o_proj",
        **SCALES,
    }
    parts = tuple(f"attention.{part}_proj" for part in "qkv")
    gated = ("mlp.gate_proj", "mlp.up_proj")
    double = weights["blocks.0.mlp.fc1.weight"].shape[0] == 2 * VIT["hidden_dim"]
    out = split(weights, "mlp.fc1", gated if double else ("mlp.up_proj",))
    out = renamed(split(out, "attn.qkv", parts), {**names, "mlp.fc2": "mlp.down_proj"})
    return out | {"embeddings.mask_token": torch.ones(1, 32)}


def meta_training(weights: Weights) -> Weights:
    """Blocks in two chunks, with the heads of a training."""
    out = {}
    for name, value in weights.items():
        if name.startswith("blocks."):
            number = name.split(".")[1]
            name = f"blocks.{int(int(number) > 1)}.{name.removeprefix('blocks.')}"
        out[f"backbone.{name}"] = value
    heads = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.last_layer.weight": value}
    return {"teacher": out | heads | {"backbone.mask_token": torch.ones(1, 32)}}  # type: ignore[return-value]


SECOND_NORM = ("norm2.weight", "layernorm_after.weight")
CASES = {
    "hf-vit": (VIT, hf_vit),
    "hf-dinov2": (DINOV2, hf_dinov2),
    "hf-dinov2-registers": (REGISTERS, hf_dinov2_registers),
    "hf-dinov2-giant": (GIANT, hf_dinov2_giant),
    "hf-dinov3": (DINOV3, hf_dinov3),
    "hf-dinov3-gated": (DINOV3_GATED, hf_dinov3),
    "meta-training": (DINOV2, meta_training),
}


@pytest.mark.parametrize("case", CASES)
def test_renamed_weights_come_back(case: str) -> None:
    arch, rename = CASES[case]
    model = jitter(encoder(arch))
    loaded = encoder(arch)
    load_backbone(loaded, rename(dict(model.state_dict())))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["hf-vit", "hf-dinov2", "hf-dinov3"])
@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_file_of_another_encoder_is_named(case: str, change: str) -> None:
    arch, rename = CASES[case]
    weights = rename(dict(encoder(arch).state_dict()))
    block = next(n for n in weights if ".1." in n and n.endswith(SECOND_NORM))
    value = weights.pop(block)
    if change == "unknown":
        weights[block.replace("weight", "scale")] = value
    with pytest.raises(CheckpointError, match=r"norm2\.weight|scale"):
        load_backbone(encoder(arch), weights)


def test_queries_without_keys_are_named() -> None:
    weights = hf_dinov2(dict(encoder(DINOV2).state_dict()))
    del weights["encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"got no blocks\.1\.attn\.key\.weight"):
        load_backbone(encoder(DINOV2), weights)


def mmpretrain_vit(**options: Any) -> nn.Module:
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64)
    return VisionTransformer(arch=arch, img_size=SIDE, patch_size=14, out_type="featmap", **options)


def mmpretrain_eva02(**options: Any) -> nn.Module:
    """With the rotation of published files; what mmpretrain itself computes is another one."""
    from mmpretrain.models import ViTEVA02

    arch = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64)
    model = ViTEVA02(arch=arch, img_size=SIDE, patch_size=14, out_type="featmap", **options)
    rope = RotaryEmbeddingCat(16, in_pixels=False, feat_shape=(4, 4), ref_feat_shape=(16, 16))
    model.rope.freqs_sin, model.rope.freqs_cos = rope.get_embed().chunk(2, dim=-1)
    return model


@pytest.mark.parametrize(
    ("build", "options", "arch"),
    [
        (mmpretrain_vit, {}, VIT),
        (mmpretrain_vit, dict(layer_scale_init_value=0.1), DINOV2),
        (mmpretrain_eva02, {}, EVA02),
        (mmpretrain_eva02, dict(sub_ln=True), EVA02_NORM),
    ],
    ids=["vit", "vit-scaled", "eva02", "eva02-norm"],
)
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_encoders_of_mmpretrain(
    build: Callable[..., nn.Module], options: dict[str, Any], arch: dict[str, Any], prefix: str
) -> None:
    theirs = jitter(build(**options))
    weights = dict(theirs.state_dict())
    for name in weights:
        if name.endswith("qkv.bias") and "rope" in arch:
            weights[name][32:64] = 0  # of the keys
    theirs.load_state_dict(weights)
    ours = encoder(arch | dict(norm_eps=theirs.ln1.eps))
    head = {"head.fc.weight": torch.ones(2, 2)} if prefix else {}
    load_backbone(ours, {prefix + name: value for name, value in weights.items()} | head)
    img = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(ours(img)[0], theirs(img)[0], rtol=1e-4, atol=1e-5)


def test_keys_with_a_bias_are_no_eva02() -> None:
    theirs = jitter(mmpretrain_eva02())
    with pytest.raises(CheckpointError, match="keys without bias"):
        load_backbone(encoder(EVA02), dict(theirs.state_dict()))


def test_a_masked_autoencoder_is_sent_to_its_converter() -> None:
    weights = dict(encoder(VIT).state_dict()) | {"decoder_embed.weight": torch.ones(2, 2)}
    with pytest.raises(CheckpointError, match="--source mae"):
        load_backbone(encoder(VIT), weights)


def test_names_of_torch_hub() -> None:
    assert set(HUB_NAMES.values()) <= set(ARCHS)
    assert resolve_arch("dinov2_vitb14_reg") is ARCHS["vit_base_patch14_reg4_dinov2"]
    assert resolve_arch("dinov3_vith16plus") is ARCHS["vit_huge_plus_patch16_dinov3"]
