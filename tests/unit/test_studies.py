"""Studies of speed ask what the publication asks: tokens, rates and sizes are its own."""

import pytest
import torch

from cropr_mm.backbones.cropr_vit import CroprViT
from experiments.studies import STUDIES, Group


def published(study: str) -> list[Group]:
    return STUDIES[study].groups(None, None)


def built(group: Group) -> dict[str, CroprViT]:
    with torch.device("meta"):
        return {name: CroprViT(**settings) for name, settings in group.encoders.items()}


def removed(encoder: CroprViT) -> float:
    """Share of the patches that are gone at the end."""
    patches = encoder.grid[0] * encoder.grid[1]
    return 1 - min(encoder.num_keep().values(), default=patches) / patches


def test_rates_are_0_to_8_of_vit_l_with_fusion() -> None:
    (group,) = published("rates")
    encoders = built(group)
    found = {name: encoder.tokens_per_block() for name, encoder in encoders.items()}
    assert list(found) == [f"R={rate}" for rate in range(9)]
    assert found["R=0"] == [197] * 24
    # The released log: 188, 180, .., 20 tokens, class token included; the last block sees all.
    assert found["R=8"] == [197, *range(188, 19, -8), 197]
    assert removed(encoders["R=8"]) == pytest.approx(0.90, abs=0.005)
    assert found["R=1"] == [197, *range(195, 173, -1), 197]


def test_precision_removes_90_percent_without_fusion_and_class_token() -> None:
    groups = published("precision")
    assert [list(group.encoders) for group in groups] == [
        ["dense", f"R={rate}"] for rate in (40, 160, 640)
    ]
    for group, (side, rate) in zip(groups, ((512, 40), (1024, 160), (2048, 640)), strict=True):
        (dense, pruned), patches = built(group).values(), (side // 16) ** 2
        assert group.title == f"vit_large_patch16_224, {side} px"
        assert dense.tokens_per_block() == [patches] * 24
        assert pruned.tokens_per_block() == [patches - rate * block for block in range(24)]
        assert removed(pruned) == pytest.approx(0.90, abs=0.005)
    study = STUDIES["precision"]
    assert (study.dtypes, study.kernels) == (("fp32", "bf16", "fp16", "amp"), ("flash", "math"))


def test_length_compares_multiples_of_8_with_one_token_less_throughout() -> None:
    groups = published("length")
    assert len(groups) == 2 * 3
    for count, pair in zip((1024, 4096, 16384), (groups[:2], groups[2:4], groups[4:]), strict=True):
        for group, share in zip(pair, (0, 0.90), strict=True):
            whole, less = built(group).values()
            even = whole.tokens_per_block()
            assert list(group.encoders) == [f"{count} tokens", f"{count - 1} tokens"]
            assert even[0] == count
            assert all(count % 8 == 0 for count in even)
            assert less.tokens_per_block() == [count - 1 for count in even]
            assert removed(whole) == pytest.approx(share, abs=0.005)


def test_scales_and_resolutions_are_those_of_the_figures() -> None:
    found = {group.title: list(built(group).values()) for group in published("scale")}
    assert {title: round(removed(pruned), 2) for title, (_, pruned) in found.items()} == {
        "vit_base_patch16_224, 224 px, R=16": 0.82,
        "vit_large_patch16_224, 224 px, R=8": 0.90,
        "vit_huge_patch14_224, 224 px, R=8": 0.94,
        "vit_large_patch16_224, 336 px, R=18": 0.90,
        "vit_large_patch16_224, 448 px, R=32": 0.90,
    }
    for pair in found.values():
        dense, pruned = (encoder.tokens_per_block() for encoder in pair)
        assert len(set(dense)) == 1
        assert pruned[-1] == dense[-1] > pruned[-2]


def test_detection_is_the_encoder_of_the_coco_configs() -> None:
    large, base = (
        {name: encoder.tokens_per_block() for name, encoder in built(group).items()}
        for group in published("detection")
    )
    assert large["dense"] == [9216] * 24
    stages = ((5, 9216), (3, 6400), (3, 4096), (3, 2304), (6, 1024), (3, 256), (1, 9216))
    assert large["Cropr"] == [count for blocks, count in stages for _ in range(blocks)]
    assert base["dense"] == [4096] * 12
    assert base["Cropr"][-2:] == [256, 4096]
    assert STUDIES["detection"].with_memory


def test_the_curve_covers_512_to_2048_pixels_at_half_and_whole_rates() -> None:
    groups = published("curve")
    assert [group.title.split(", ")[1] for group in groups] == [
        f"{side} px" for side in (512, 768, 1024, 1536, 2048)
    ]
    for group in groups:
        dense, half, whole = map(removed, built(group).values())
        assert dense == 0
        assert half == pytest.approx(0.45, abs=0.01)
        assert whole == pytest.approx(0.90, abs=0.005)


@pytest.mark.parametrize("study", STUDIES)
def test_another_architecture_and_size_take_the_place_of_the_published(study: str) -> None:
    arch = "eva02_tiny_patch14_224" if study == "detection" else "vit_tiny_patch16_224"
    for group in STUDIES[study].groups(arch, (512,)):
        assert group.title.startswith(f"{arch}, 512 px")
        for settings in group.encoders.values():
            assert settings["arch"] == arch
            assert sum(settings["img_size"]) == 2 * 512


@pytest.mark.parametrize(
    ("study", "arch", "sides", "message"),
    [
        ("precision", None, (40,), "multiples of 16 pixels .* got 40"),
        ("curve", None, (32,), "at least one token to remove after each of 23 blocks, got 32"),
        ("detection", "vit_huge_patch14_224", None, "an arch of 24 or 12 blocks, got vit_huge"),
        ("rates", "vit_larg", None, "none of the .* known names"),
    ],
)
def test_bad_input_is_named(study: str, arch: str, sides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STUDIES[study].groups(arch, sides)
