"""Attention-to-mask heads of exits, and what they learn."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.reducers import DToP
from cropr_mm.reducers.mask_classifier import MaskClassifier, MaskDecoderLayer
from cropr_mm.registry import TASK_UTILS
from cropr_mm.structures import Tokens
from cropr_mm.targets import PatchLabelTarget, PatchMaskTarget


def published_layer(layer: MaskDecoderLayer, queries: Tensor, memory: Tensor) -> tuple:
    """Post-norm decoder layer of torch, and masks head by head."""
    dim, heads = queries.shape[-1], layer.num_heads
    twin = nn.TransformerDecoderLayer(dim, heads, 4 * dim, dropout=0.0, batch_first=True)
    with torch.no_grad():
        own = layer.self_attn
        twin.self_attn.load_state_dict(
            {
                "in_proj_weight": own.qkv.weight,
                "in_proj_bias": own.qkv.bias,
                "out_proj.weight": own.proj.weight,
                "out_proj.bias": own.proj.bias,
            }
        )
        twin.multihead_attn.load_state_dict(
            {
                "in_proj_weight": torch.cat([layer.q.weight, layer.kv.weight]),
                "in_proj_bias": torch.cat([layer.q.bias, layer.kv.bias]),
                "out_proj.weight": layer.proj.weight,
                "out_proj.bias": layer.proj.bias,
            }
        )
    twin.linear1, twin.linear2 = layer.mlp.fc1, layer.mlp.fc2
    asked = layer.q(twin.norm1(queries + twin.self_attn(queries, queries, queries)[0]))
    size = dim // heads
    mask = 0
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        keys = layer.kv(memory)[..., :dim]
        mask = mask + keys[..., part] @ asked[..., part].transpose(1, 2) / math.sqrt(size)
    return twin(queries, memory), mask / heads


@torch.no_grad()
@pytest.mark.parametrize(("dim", "heads"), [(128, 2), (16, 1)])
def test_a_layer_is_torchs_decoder_layer_with_the_mean_logits_of_its_heads(
    dim: int, heads: int
) -> None:
    torch.manual_seed(0)
    layer = MaskDecoderLayer(dim, heads)
    queries, memory = torch.randn(2, 4, dim), torch.randn(2, 9, dim)
    for one, other in zip(
        layer(queries, memory, None), published_layer(layer, queries, memory), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_tokens_that_are_gone_are_not_looked_at() -> None:
    torch.manual_seed(0)
    classifier = MaskClassifier(8, 3, 128)
    assert [len(classifier.layers), classifier.layers[0].num_heads] == [3, 2]
    x, live = torch.randn(2, 6, 8), torch.rand(2, 6) > 0.4
    masks, presence = classifier(x, live)
    assert (masks.shape, presence.shape) == ((2, 6, 3), (2, 3))
    for image in range(2):
        alone = classifier(x[image : image + 1, live[image]], None)
        torch.testing.assert_close(masks[image, live[image]], alone[0][0])
        torch.testing.assert_close(presence[image], alone[1][0])


@torch.no_grad()
def test_a_probability_is_that_of_mask_and_presence() -> None:
    torch.manual_seed(0)
    reducer = DToP(8, num_classes=3, head="mask", mask_dim=16).eval()
    tokens = Tokens(torch.randn(2, 7, 8), torch.arange(6).expand(2, 6), (2, 3), num_prefix=1)
    masks, presence = reducer.masks(tokens.patches, None)
    both = torch.stack([presence, torch.zeros_like(presence)], dim=-1).softmax(-1)[..., :1]
    expected = masks.sigmoid() * both.transpose(1, 2)
    torch.testing.assert_close(reducer.logits(tokens).exp(), expected)
    exits, confidence, label = reducer.examine(tokens)
    torch.testing.assert_close(confidence, expected.amax(2))
    assert torch.equal(label, expected.argmax(2))
    assert torch.equal(exits[..., :-1], reducer.logits(tokens))


def test_cost_is_that_of_three_decoder_layers() -> None:
    sizes: dict = dict(arch=dict(embed_dim=8, depth=4, num_heads=2), img_size=48, patch_size=8)
    reducer = dict(type="cropr_mm.DToP", num_classes=5, confidence=0.9, head="mask", mask_dim=16)
    stages = dict(type="cropr_mm.KeepRatios", ratio=1.0, blocks=[1])
    with torch.device("meta"):
        dense, exits = (
            encoder_cost(CroprViT(**sizes, **options).eval())
            for options in ({}, dict(reducer=reducer, schedule=stages))
        )
    n, c, k, d = 36, 8, 5, 16
    weights = 14 * d * d  # of a layer, by query; keys and values are made of tokens
    products = 2 * k * k * d + 3 * k * n * d  # among queries, of them with tokens, and the masks
    layer = k * weights + n * 2 * d * d + products
    assert exits.macs.linear - dense.macs.linear == n * c * d + 3 * layer + k * d
    start, end = c * d + d + 2 * d + k * d, d + 1  # projection, norm and queries; presence
    head = start + 3 * (16 * d * d + 13 * d + 6 * d) + end
    assert exits.params_deployed - dense.params_deployed == head


def published_loss(masks: Tensor, presence: Tensor, labels: list[list[int]]) -> float:
    """Three terms for logits (B, n, K) and (B, K) and labels of cells, -1 for none, in loops."""
    kinds = range(masks.shape[2])
    weight = total = 0.0
    found = []  # image, class
    for image, cells in enumerate(labels):
        for kind in kinds:
            there = kind in cells
            p = 1 / (1 + math.exp(-presence[image, kind].item()))
            w = 1.0 if there else 0.1
            total -= w * math.log(p if there else 1 - p)
            weight += w
            found += [(image, kind)] if there else []
    value = total / weight
    for image, kind in found:
        focal = overlap = size = 0.0
        cells = [(n, c) for n, c in enumerate(labels[image]) if c >= 0]
        for n, c in cells:
            p = 1 / (1 + math.exp(-masks[image, n, kind].item()))
            hit = p if c == kind else 1 - p
            focal -= (0.25 if c == kind else 0.75) * (1 - hit) ** 2 * math.log(hit)
            overlap += 2 * p * (c == kind)
            size += p + (c == kind)
        dice = 1 - (overlap + 1) / (size + 1)
        value += (20 * focal / len(cells) + dice) / len(found)
    return value


def test_loss_is_the_published_one_over_the_cells_that_are_there() -> None:
    torch.manual_seed(0)
    target = TASK_UTILS.build(dict(type="cropr_mm.PatchMaskTarget", num_classes=4, grid=(2, 3)))
    masks, presence = 3 * torch.randn(2, 5, 4), torch.randn(2, 4)
    encoded = torch.tensor([[0, 1, 1, 255, 2, 0], [3, 3, 3, 3, 3, 1]])
    places = torch.tensor([[4, 3, -1, 1, 2], [0, 1, 2, -1, -1]])
    labels = [[2, -1, -1, 1, 1], [3, 3, 3, -1, -1]]
    logits = torch.cat([masks, presence[:, None]], dim=1)
    value = target.loss(logits, target.at(encoded, places, (2, 3)))
    assert value.item() == pytest.approx(published_loss(masks, presence, labels), rel=1e-5)
    assert value.dtype == torch.float32


def test_images_without_any_class_learn_that_nothing_is_there() -> None:
    target = PatchMaskTarget(3, 1)
    logits = torch.randn(2, 2, 3, requires_grad=True)
    value = target.loss(logits, torch.full((2, 1), 255))
    expected = F.binary_cross_entropy_with_logits(logits[:, 1], torch.zeros(2, 3))
    torch.testing.assert_close(value, expected)
    value.backward()
    assert bool(logits.grad.isfinite().all())
    assert not logits.grad[:, 0].any()


class Model(nn.Module):
    """What the listener expects of a model."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.backbone = CroprViT(
            dict(embed_dim=8, depth=4, num_heads=2, patch_size=8, img_size=16),
            reducer=dict(type="cropr_mm.DToP", num_classes=3, head=head, mask_dim=8),
            schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 2}),
        )

    def forward(self, inputs: Tensor, data_samples: list, mode: str = "loss") -> dict:
        return {}


@pytest.mark.parametrize(
    ("head", "wrong"), [("linear", PatchMaskTarget(3, 2)), ("mask", PatchLabelTarget(3, 2))]
)
def test_each_head_has_its_target(head: str, wrong: PatchLabelTarget) -> None:
    right = "PatchMaskTarget" if head == "mask" else "PatchLabelTarget"
    with pytest.raises(ValueError, match=f"cannot learn .* expected {right}"):
        AuxiliaryListener(Model(head), wrong)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 5, 2\) .*presence, classes\), got \(1, 4, 2"):
        PatchMaskTarget(2, 2).loss(torch.zeros(1, 4, 2), torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"weights >= 0, got \(1.0, 20.0, -1\)"):
        PatchMaskTarget(2, 2, dice_weight=-1)
