"""Counts against published figures, hand calculation and torch's own layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.config import Config
from shipped_configs import config_file
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.profiling import complexity_report
from cropr_mm.profiling.encoder_cost import encoder_cost
from cropr_mm.profiling.model_cost import model_cost

COCO = dict(
    arch="eva02_large_patch14_448",
    img_size=1536,
    patch_size=16,
    with_cls_token=False,
    window_size=16,
    global_block_indexes=[2, 5, 8, 11, 14, 17, 20, 23],
    final_norm=False,
)
ADE20K = dict(arch="eva02_large_patch14_448", img_size=512, patch_size=16)
IMAGENET = dict(arch="vit_large_patch16_224")


def pruned(schedule: str, **arguments: Any) -> dict[str, Any]:
    return dict(
        reducer=dict(type="cropr_mm.Cropr"),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
        schedule=dict(type=f"cropr_mm.{schedule}", **arguments),
    )


def on_meta(**arguments: Any) -> CroprViT:
    with torch.device("meta"):
        return CroprViT(**arguments).eval()


WINDOWS = pruned("WindowStages", blocks=[4, 7, 10, 13, 19])
# Settings, tokens times classes of the linear head that the figures include, GMAC linear and total.
PUBLISHED = {
    "COCO dense": (COCO, 0, 2789.9, 4258.8),
    "COCO Cropr": (COCO | WINDOWS, 0, 1273.0, 1789.6),
    "ADE20k dense": (ADE20K, 1024 * 150, 310.45, 362.09),
    "ADE20k Cropr": (ADE20K | pruned("ConstantRate", rate=40), 1024 * 150, 182.87, 204.41),
    "ImageNet dense": (IMAGENET, 1000, 59.65, 61.55),
    "ImageNet Cropr": (IMAGENET | pruned("ConstantRate", rate=8), 1000, 33.91, 34.67),
    "ImageNet Cropr, first step like the others": (
        IMAGENET | pruned("ConstantRate", rate=8, absorb_prefix=False),
        1000,
        34.18,
        34.95,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_reproduces_published_figures_to_every_printed_digit(name: str) -> None:
    arguments, head, linear, total = PUBLISHED[name]
    cost = encoder_cost(on_meta(**arguments))
    digits = len(str(linear).partition(".")[2])
    assert round((cost.macs.linear + 1024 * head) / 1e9, digits) == linear
    assert round((cost.macs.total + 1024 * head) / 1e9, digits) == total


def test_projected_scorer_costs_what_is_published_until_it_is_collapsed() -> None:
    """Table 4a: 36.8 with keys of all tokens, on the schedule that 34.2 is of."""
    arguments = IMAGENET | pruned("ConstantRate", rate=8, absorb_prefix=False)
    simple = encoder_cost(on_meta(**arguments))
    arguments["reducer"] = arguments["reducer"] | dict(scorer="mha")
    cost = encoder_cost(on_meta(**arguments))
    assert round((cost.macs.linear + 1024 * 1000) / 1e9, 2) == 36.81
    assert cost.macs_deployed == simple.macs == simple.macs_deployed


@pytest.mark.parametrize(
    ("config", "published"),
    [("cropr_eva02_cascade_coco", 1273), ("unpruned_eva02_cascade_coco", 2790)],
)
def test_shipped_detectors_cost_what_is_published(config: str, published: int) -> None:
    pytest.importorskip("mmdet")
    report = complexity_report(Config.fromfile(config_file(config)))
    assert round(report["encoder"]["macs_linear"] / 1e9) == published
    assert report["model"]["parts"]["backbone"]["macs_linear"] == report["encoder"]["macs_linear"]
    assert report["model"]["not_counted"] == {}


@pytest.mark.parametrize(
    ("config", "gmacs", "trained", "deployed"),
    [
        ("unpruned_eva02_segmenter_ade20k", 311, 304_393_302, 304_393_302),
        ("cropr_eva02_segmenter_ade20k", 183, 515_596_602, 304_393_302 + 22 * 1024),
    ],
)
def test_shipped_segmenters_cost_and_count_what_is_published(
    config: str, gmacs: int, trained: int, deployed: int
) -> None:
    pytest.importorskip("mmseg")
    model = complexity_report(Config.fromfile(config_file(config)))["model"]
    assert model["macs_linear"] / 1e9 == pytest.approx(gmacs, rel=0.005)
    assert model["params_trained"] == trained
    assert model["params_deployed"] == deployed
    assert model["not_counted"] == {}


def small(**changes: Any) -> CroprViT:
    arguments = dict(
        arch=dict(embed_dim=32, depth=4, num_heads=2, patch_size=8, img_size=64),
        **pruned("ExplicitTokens", num_keep={0: 40, 1: 20}),
    )
    return on_meta(**(arguments | changes))


def test_blocks_scorers_and_patches_add_up_by_hand() -> None:
    cost = encoder_cost(small())
    tokens = [65, 41, 21, 65]
    assert [block.tokens for block in cost.blocks] == tokens
    for n, block in zip(tokens, cost.blocks, strict=True):
        assert block.macs.layers == n * 12 * 32**2
        assert block.macs.attention == 2 * n**2 * 32
    # Scores of the tokens that enter a reducer, class token included, by one vector.
    assert [block.macs.scorers for block in cost.blocks] == [65 * 32, 41 * 32, 0, 0]
    patches = 64 * 3 * 8**2 * 32
    assert cost.macs.layers == patches + sum(block.macs.layers for block in cost.blocks)
    assert cost.macs.linear == cost.macs.layers + cost.macs.scorers
    assert cost.macs.total == cost.macs.linear + cost.macs.attention


D = 32
# Multiply-adds of a step from n patch tokens to k: products of weights, tokens and distances.
STEP_COSTS: dict[str, Callable[[int, int], int]] = {
    "AttnTopK": lambda n, k: 0,
    "DPCKNN": lambda n, k: n**2 * D + n * D,
    "DynamicViT": lambda n, k: n * (D**2 + D**2 // 2 + D**2 // 8 + D // 2),
    "DTPS": lambda n, k: n * (D**2 + D**2 // 2 + D**2 // 8 + D // 2) + (n - k) * k * D,
    "ETPS": lambda n, k: (n - k) * k * D,
    "KMedoids": lambda n, k: n**2 * D,
    "PatchMerger": lambda n, k: 2 * n * k * D,
    "Sinkhorn": lambda n, k: 2 * n * k * D,
    "SiT": lambda n, k: n * (D**2 // 2 + k * D // 2) + n * k * D,
    "ToMe": lambda n, k: n**2 * (D // 2) // 4,  # keys are the mean of two heads
}


@pytest.mark.parametrize("name", STEP_COSTS)
def test_steps_of_other_methods_cost_what_their_formulas_say(name: str) -> None:
    cost = encoder_cost(small(reducer=dict(type=f"cropr_mm.{name}"), fusion=None))
    expected = [STEP_COSTS[name](64, 40), STEP_COSTS[name](40, 20), 0, 0]
    assert [block.macs.scorers for block in cost.blocks] == expected


@pytest.mark.parametrize("num_patches", [16, 64])
def test_distances_are_counted_however_torch_computes_them(num_patches: int) -> None:
    # Up to 25 rows by differences, beyond by a product.
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep={1: 8})
    side = 8 * int(num_patches**0.5)
    model = small(
        reducer=dict(type="cropr_mm.KMedoids"), fusion=None, schedule=schedule, img_size=side
    )
    assert encoder_cost(model).macs.scorers == num_patches**2 * D


@pytest.mark.parametrize("site", ["after", "between"])
def test_reducer_inside_a_block_is_counted_in_that_block(site: str) -> None:
    reducer = dict(type="cropr_mm.AttnTopK", signal="cls_row", site=site)
    cost = encoder_cost(small(reducer=reducer))
    # The MLP (8 of 12 C^2) of a block whose reducer acts inside it sees what is left only.
    left = [40 + 1, 20 + 1, 20 + 1, 65] if site == "between" else [65, 41, 21, 65]
    expected = [(4 * n + 8 * m) * 32**2 for n, m in zip([65, 41, 21, 65], left, strict=True)]
    assert [block.macs.layers for block in cost.blocks] == expected


def test_parameters_with_and_without_auxiliary_parts() -> None:
    backbone = small()
    cost = encoder_cost(backbone)
    dense = sum(p.numel() for p in small(reducer=None, fusion=None, schedule=None).parameters())
    assert cost.params_trained == sum(p.numel() for p in backbone.parameters())
    assert cost.params_deployed == dense + 2 * 32
    assert hasattr(backbone.reducers["0"], "queries"), "counting leaves the model as it was"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())


def test_other_image_sizes_cost_what_their_tokens_cost() -> None:
    cost = encoder_cost(small(), img_size=(64, 128))
    assert [block.tokens for block in cost.blocks] == [129, 41, 21, 129]


class Classifier(nn.Module):
    """Encoder, head, and a part of an unknown kind where asked for."""

    def __init__(self, head: nn.Module, **parts: nn.Module) -> None:
        super().__init__()
        self.backbone = small(out_type="avg_featmap")
        self.head = head
        for name, part in parts.items():
            setattr(self, name, part)


class Head(nn.Linear):
    """Linear head on pooled features."""

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return super().forward(features[-1])


class NeedsNumbers(nn.Linear):
    """Head that looks at values, which the meta device has not."""

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return features[-1] if features[-1].sum() > 0 else -features[-1]


def test_model_is_the_sum_of_its_parts() -> None:
    with torch.device("meta"):
        model = Classifier(Head(32, 10)).eval()
    cost = model_cost(model)
    assert set(cost.parts) == {"backbone", "head"}
    assert cost.parts["backbone"][0] == encoder_cost(model.backbone).macs
    assert cost.parts["head"][0].total == 32 * 10
    assert cost.macs.total == encoder_cost(model.backbone).macs.total + 320
    assert cost.not_counted == {}
    assert cost.params_deployed == encoder_cost(model.backbone).params_deployed + 330


def test_what_cannot_be_counted_is_named() -> None:
    with torch.device("meta"):
        stuck = model_cost(Classifier(NeedsNumbers(32, 10)).eval())
        unknown = model_cost(Classifier(Head(32, 10), decoder=nn.Linear(2, 2)).eval())
    assert set(stuck.parts) == {"backbone"}
    assert "does not run on the meta device" in stuck.not_counted["head"]
    assert set(unknown.not_counted) == {"decoder", "heads"}


def test_model_in_memory_or_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="got meta in training mode"):
        encoder_cost(small().train())
    with pytest.raises(ValueError, match="got cpu in evaluation mode"):
        encoder_cost(CroprViT(dict(embed_dim=32, depth=2, num_heads=2)).eval())
