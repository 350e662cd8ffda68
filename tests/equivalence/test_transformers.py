"""Encoders of Hugging Face transformers load into ours and compute the same features.

Needs transformers, which the environment of the maintained stack has.
"""

from typing import Any

import pytest
import torch
from timm.layers import QuickGELU
from torch import nn

from cropr_mm import CroprCvT, CroprViT
from cropr_mm.checkpoints import load_cvt
from cropr_mm.checkpoints.load import load_backbone

transformers = pytest.importorskip("transformers")

SIDE = 56
SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, patch_size=14)
DINOV2 = dict(embed_dim=32, depth=3, num_heads=2, patch_size=14, img_size=SIDE, layer_scale=1.0)
VIT = {key: value for key, value in DINOV2.items() if key != "layer_scale"}
DINOV3 = dict(
    DINOV2,
    hidden_dim=64,
    attn_bias="qv",
    norm_eps=1e-5,
    num_registers=4,
    pos_embed=False,
    rope="dinov3",
    rope_temperature=100.0,
)
NARROW = dict(intermediate_size=64)
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("ViT", NARROW, dict(VIT, hidden_dim=64, norm_eps=1e-12)),
    "dinov2": ("Dinov2", {}, DINOV2),
    "dinov2-giant": ("Dinov2", dict(use_swiglu_ffn=True), dict(DINOV2, mlp="swiglu")),
    "dinov2-registers": (
        "Dinov2WithRegisters",
        {},
        dict(DINOV2, num_registers=4, pos_embed_prefix=False),
    ),
    "dinov3": ("DINOv3ViT", dict(NARROW, num_register_tokens=4), DINOV3),
    "dinov3-gated": (
        "DINOv3ViT",
        dict(NARROW, num_register_tokens=4, use_gated_mlp=True, hidden_act="silu"),
        dict(DINOV3, mlp="swiglu"),
    ),
}


def jitter(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.05 * torch.randn_like(parameter) + ("norm" in name))
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_features_are_equal(case: str) -> None:
    name, options, arch = CASES[case]
    config = getattr(transformers, f"{name}Config")(**SIZES, image_size=SIDE, **options)
    theirs = jitter(getattr(transformers, f"{name}Model")(config))
    weights = dict(theirs.state_dict())
    if case == "dinov2-giant":
        arch = arch | dict(hidden_dim=weights["encoder.layer.0.mlp.weights_out.weight"].shape[1])
    ours = CroprViT(arch=arch, img_size=SIDE, out_type="featmap").eval()
    load_backbone(ours, weights)
    img = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        features = theirs(img).last_hidden_state[:, -16:]
        expected = features.transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(ours(img)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_stages_of_cvt_are_equal(head: bool) -> None:
    """Transformers has GELU where the published model has its sigmoid form; here it gets that."""
    dims: dict[str, Any] = dict(depth=[1, 2, 3], num_heads=[1, 2, 3], embed_dim=[8, 16, 24])
    config = transformers.CvtConfig(**dims, drop_path_rate=[0.0] * 3)
    model = jitter(transformers.CvtForImageClassification(config))
    theirs = model if head else model.cvt
    encoder = model.cvt.encoder
    for stage in encoder.stages:
        for layer in stage.layers:
            layer.intermediate.activation = QuickGELU()
    arch = dict(embed_dims=(8, 16, 24), depths=(1, 2, 3), num_heads=(1, 2, 3))
    ours = CroprCvT(arch, 64, out_indices=(0, 1, 2), out_type="raw").eval()
    load_cvt(ours, dict(theirs.state_dict()))
    img = torch.randn(2, 3, 64, 92)
    with torch.no_grad():
        found = encoder(img, output_hidden_states=True)
        tokens = torch.cat([found.cls_token_value, found.last_hidden_state.flatten(2).mT], dim=1)
        expected = [*found.hidden_states[:2], ours.norm(tokens)]
        assert torch.equal(ours.norm.weight, model.layernorm.weight) == head
        for a, b in zip(ours(img), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
