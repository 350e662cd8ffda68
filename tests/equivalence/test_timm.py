"""Features of the dense encoder against timm's own models of the same weights."""

import pytest
import timm
import torch
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.checkpoints import load_backbone
from cropr_mm.layers.arch import ARCHS

TOLERANCE = 1e-5
DEPTH = 2

# Every family, bias and norm layout, patch size; depth is cut to two blocks.
NAMES = [
    "vit_tiny_patch16_224",
    "vit_base_patch32_224",
    "vit_large_patch14_224",
    "deit_small_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",
    "vit_base_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "eva02_small_patch14_336",
    "eva02_base_patch14_448",
    "eva02_large_patch14_224",
    "eva02_base_patch16_clip_224",
]


def timm_model(name: str, **kwargs: object) -> nn.Module:
    """Timm's model with every parameter random, so that no zero or one hides a mistake."""
    model = timm.create_model(name, num_classes=0, depth=DEPTH, **kwargs).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() > 1:
            parameter.data = noise * max(0.02, parameter[0].numel() ** -0.5)
        else:
            parameter.data = parameter.data.clamp(0.1, 1.0) + 0.1 * noise
    return model


def ours(name: str, model: nn.Module, img_size: tuple[int, int], **kwargs: object) -> CroprViT:
    arch = {**vars(ARCHS[name]), "depth": DEPTH}
    backbone = CroprViT(arch, img_size=img_size, out_type="raw", **kwargs).eval()
    load_backbone(backbone, model.state_dict())
    return backbone


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", ["native", "other"])
def test_features_equal_timms(name: str, shape: str) -> None:
    torch.manual_seed(0)
    patch, side = ARCHS[name].patch_size, ARCHS[name].img_size
    if "giant" in name:
        side = 224  # its native 518 px take half a minute and show nothing that the others do not
    size = (side, side) if shape == "native" else (6 * patch, 9 * patch)
    model = timm_model(name, img_size=size)
    backbone = ours(name, model, size)
    img = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model.fc_norm(model.forward_features(img))
        (got,) = backbone(img)
    assert expected.std() > 0.1
    assert relative_error(got, expected) < TOLERANCE


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit3_small_patch16_224", "eva02_tiny_patch14_224"]
)
def test_another_size_in_forward_equals_timms_dynamic_size(name: str) -> None:
    torch.manual_seed(0)
    patch, side = ARCHS[name].patch_size, ARCHS[name].img_size
    model = timm_model(name, dynamic_img_size=True)
    backbone = ours(name, model, (side, side))
    img = torch.randn(1, 3, 10 * patch, 7 * patch)
    with torch.no_grad():
        expected = model.fc_norm(model.forward_features(img))
        (got,) = backbone(img)
    assert relative_error(got, expected) < TOLERANCE


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"]
)
def test_pooled_features_equal_timms(name: str, pool: str) -> None:
    torch.manual_seed(0)
    model = timm_model(name, global_pool=pool)
    side = ARCHS[name].img_size
    backbone = ours(name, model, (side, side))
    backbone.out_type = {"avg": "avg_featmap", "token": "cls_token"}[pool]
    img = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(img), pre_logits=True)
        (got,) = backbone(img)
    assert relative_error(got, expected) < TOLERANCE


@pytest.mark.parametrize("name", sorted(n for n in ARCHS if not n.startswith(("lvvit", "ps_vit"))))
def test_every_architecture_has_timms_parameters(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
        backbone = CroprViT(name)
    count = sum(p.numel() for p in backbone.parameters())
    assert count == sum(p.numel() for p in model.parameters())
    assert (backbone.depth, backbone.num_heads) == (
        len(model.blocks),
        model.blocks[0].attn.num_heads,
    )


def test_timm_tags_name_the_same_architecture() -> None:
    with torch.device("meta"):
        assert CroprViT("vit_base_patch16_224.mae").arch == ARCHS["vit_base_patch16_224"]
