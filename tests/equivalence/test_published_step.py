"""The step as the paper writes it, on timm's blocks, against the encoder."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.layers.arch import ARCHS
from cropr_mm.profiling.baselines import BASELINES, PublishedStep, TimmTwin, random_twin

TOLERANCE = 1e-5
NAMES = [
    "eva02_tiny_patch14_224",
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_patch16_dinov3",
]
CROPR: dict[str, Any] = dict(
    out_type="raw",
    reducer=dict(type="cropr_mm.Cropr", num_queries=(3, 3), num_classes=3),
    schedule=dict(type="cropr_mm.ConstantRate", rate=5),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)


def encoder(name: str, **changes: Any) -> CroprViT:
    """With every parameter random; 8 x 9 patches."""
    torch.manual_seed(0)
    patch = ARCHS[name].patch_size
    model = CroprViT(name, img_size=(8 * patch, 9 * patch), **CROPR | changes)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.05 if parameter.dim() > 1 else 0.2)
    return model.eval()


@torch.no_grad()
def relative_error(baseline: torch.nn.Module, model: CroprViT) -> float:
    img = torch.randn(2, 3, *model.img_size)
    got: Tensor = baseline.eval()(img)
    (expected,) = model(img)
    assert got.shape == expected.shape
    assert expected.std() > 0.1
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_with_fusion_every_token_is_that_of_the_published_step(name: str) -> None:
    model = encoder(name)
    assert relative_error(PublishedStep(model, name), model) < TOLERANCE


@torch.no_grad()
def test_without_fusion_the_class_token_is_that_of_the_published_step() -> None:
    model = encoder(NAMES[0], fusion=None, out_type="cls_token")
    img = torch.randn(2, 3, *model.img_size)
    tokens = PublishedStep(model, NAMES[0]).eval()(img)
    assert tokens.shape[1] == 1 + min(model.num_keep().values())
    torch.testing.assert_close(tokens[:, 0], model(img)[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES[:2])
def test_a_model_without_class_token_has_a_twin_too(name: str) -> None:
    model = encoder(name, with_cls_token=False)
    assert relative_error(TimmTwin(model, name), model.unpruned()) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_timms_model_has_the_features_of_the_unpruned_encoder(name: str) -> None:
    model = encoder(name)
    assert relative_error(TimmTwin(model, name), model.unpruned()) < TOLERANCE


def test_random_twin_keeps_the_schedule_and_the_weights() -> None:
    model = encoder(NAMES[0])
    twin = random_twin(model)
    assert twin.tokens_per_block() == model.tokens_per_block()
    assert twin.blocks is model.blocks
    assert not any("queries" in key for key in twin.state_dict())
    assert any("queries" in key for key in model.state_dict()), "the original lost its reducers"


@pytest.mark.parametrize(
    ("changes", "baseline", "message"),
    [
        (
            dict(reducer=dict(type="cropr_mm.RandomPruner")),
            "published",
            "plain Cropr",
        ),
        (dict(deploy=True), "published", "not deployed"),
        (dict(pad_first=True), "published", "plain Cropr"),
        (dict(fusion=dict(type="cropr_mm.TokenConcat")), "published", "Last Layer Fusion or none"),
        (
            dict(reducer=dict(type="cropr_mm.NonSalient", num_classes=3)),
            "published",
            "plain Cropr",
        ),
        (
            dict(
                window_size=4,
                with_cls_token=False,
                schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={3: 16}),
            ),
            "timm",
            "timm has no .* with windows",
        ),
    ],
)
def test_what_has_no_baseline_is_named(
    changes: dict[str, Any], baseline: str, message: str
) -> None:
    model = encoder(NAMES[0], **changes)
    with pytest.raises(ValueError, match=message):
        BASELINES[baseline](model, NAMES[0])


def test_an_unnamed_architecture_has_no_baseline_of_timm() -> None:
    arch = dict(embed_dim=16, depth=3, num_heads=2)
    model = CroprViT(arch, img_size=32)
    with pytest.raises(ValueError, match="timm knows by its name"):
        TimmTwin(model, arch)
