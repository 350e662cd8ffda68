"""LV-ViT: the convolutional stem and the divided branches, against a few plain lines."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.checkpoints import load_backbone
from cropr_mm.layers.arch import ARCHS

TINY = dict(vars(ARCHS["lvvit_s"]), embed_dim=48, depth=3, num_heads=3, hidden_dim=80, conv_stem=8)
SIZE = (64, 96)


def weights_of(rows: int, classes: int = 5) -> dict[str, Tensor]:
    """Of a released file of TINY's dimensions: names as there, random values."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 48),
        "pos_embed": (1, rows, 48),
        "patch_embed.conv1.weight": (8, 3, 7, 7),
        "patch_embed.conv2.weight": (8, 8, 3, 3),
        "patch_embed.conv3.weight": (8, 8, 3, 3),
        "patch_embed.proj.weight": (48, 8, 8, 8),
        "patch_embed.proj.bias": (48,),
        "norm.weight": (48,),
        "norm.bias": (48,),
    }
    for i in (1, 2, 3):
        shapes |= {f"patch_embed.bn{i}.{n}": (8,) for n in ("weight", "bias", "running_mean")}
    for i in range(3):
        shapes |= {f"blocks.{i}.norm{n}.{p}": (48,) for n in (1, 2) for p in ("weight", "bias")}
        shapes |= {f"blocks.{i}.attn.qkv.weight": (144, 48)}
        for name, shape in (("attn.proj", (48, 48)), ("mlp.fc1", (80, 48)), ("mlp.fc2", (48, 80))):
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    shapes |= {"head.weight": (classes, 48), "aux_head.weight": (classes, 48)}
    weights = {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    for i in (1, 2, 3):
        weights[f"patch_embed.bn{i}.running_var"] = torch.rand(8) + 0.5
        weights[f"patch_embed.bn{i}.num_batches_tracked"] = torch.tensor(7)
    return weights


def plain(w: dict[str, Tensor], img: Tensor, divisor: float) -> Tensor:
    """Class and patch tokens after the last norm, (B, 1 + N, C)."""
    x = img
    for i in (1, 2, 3):
        p = f"patch_embed.bn{i}"
        weight = w[f"patch_embed.conv{i}.weight"]
        x = F.conv2d(x, weight, stride=2 if i == 1 else 1, padding=weight.shape[-1] // 2)
        norm = (w[f"{p}.running_mean"], w[f"{p}.running_var"], w[f"{p}.weight"], w[f"{p}.bias"])
        x = F.batch_norm(x, *norm).relu()
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], 1) + w["pos_embed"]

    def linear(y: Tensor, name: str) -> Tensor:
        return F.linear(y, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm_of(y: Tensor, name: str) -> Tensor:
        return F.layer_norm(y, (48,), w[f"{name}.weight"], w[f"{name}.bias"])

    for i in range(3):
        b = f"blocks.{i}"
        q, k, v = linear(norm_of(x, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (3, 16)).transpose(1, 2) for t in (q, k, v))
        y = ((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(y, f"{b}.attn.proj") / divisor
        y = F.gelu(linear(norm_of(x, f"{b}.norm2"), f"{b}.mlp.fc1"))
        x = x + linear(y, f"{b}.mlp.fc2") / divisor
    return norm_of(x, "norm")


@pytest.mark.parametrize("divisor", [1.0, 2.0])
def test_released_names_load_and_tokens_are_those_of_plain_lines(divisor: float) -> None:
    weights = weights_of(rows=1 + 4 * 6)
    model = CroprViT(TINY | dict(residual_divisor=divisor), img_size=SIZE, out_type="raw").eval()
    load_backbone(model, weights)
    img = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        (got,) = model(img)
    torch.testing.assert_close(got, plain(weights, img, divisor), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "side", "millions"), [("s", 224, 26.15), ("m", 224, 55.83), ("l", 448, 150.47)]
)
def test_models_have_the_published_parameters(name: str, side: int, millions: float) -> None:
    with torch.device("meta"):
        model = CroprViT(f"lvvit_{name}", img_size=side)
    heads = 2 * 1000 * (model.embed_dim + 1)  # of the class token and of the others
    count = sum(p.numel() for p in model.parameters()) + heads
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", ["Cropr", "EViT", "ToMe"])
def test_reducers_work_behind_the_stem(name: str) -> None:
    reducer: dict[str, Any] = dict(type=f"cropr_mm.{name}")
    schedule = dict(type="cropr_mm.Stages", rate=8, blocks=[0], absorb_prefix=False)
    model = CroprViT(TINY, SIZE, reducer=reducer, schedule=schedule, out_type="cls_token").eval()
    assert model.tokens_per_block() == [25, 17, 17]
    model(torch.randn(2, 3, *SIZE))[0][:, 0].sum().backward()
    assert model.patch_embed.conv1.weight.grad.abs().sum() > 0


def test_a_checkpoint_of_another_image_size_tells_its_grid() -> None:
    """Positions of 4 x 6 patches, in the form of a training checkpoint, into 6 x 4 patches."""
    source = CroprViT(TINY, img_size=SIZE)
    text = f"model = dict(backbone=dict(type='cropr_mm.CroprViT', img_size={SIZE}))\n"
    named = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    model = CroprViT(TINY, img_size=SIZE[::-1])
    load_backbone(model, dict(meta=dict(cfg=text), state_dict=named), prefix="backbone.")
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    assert not torch.equal(model.pos_embed, source.pos_embed), "6 x 4 is another grid than 4 x 6"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(conv_stem=0), "conv_stem must be at least 1"),
        (dict(patch_size=7), "even patch size, got 7"),
        (dict(residual_divisor=0.0), "residual_divisor must be positive"),
        (dict(layer_scale=1e-5), "exclude each other"),
    ],
)
def test_bad_dimensions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprViT(TINY | changes, img_size=56)
