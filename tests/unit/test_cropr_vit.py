"""Arguments, output types and image sizes of the backbone."""

import pytest
import torch

from cropr_mm import CroprViT

ARCH = dict(embed_dim=16, depth=4, num_heads=2, patch_size=4, rope="eva", attn_bias="qv")
CROPR = dict(type="cropr_mm.Cropr", num_classes=3)
LLF = dict(type="cropr_mm.LastLayerFusion")


def keep(counts: dict[int, int]) -> dict:
    return dict(type="cropr_mm.ExplicitTokens", num_keep=counts)


WINDOWS = dict(window_size=2, with_cls_token=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(patch_size=0), "patch_size must be a whole number of at least 1, got 0"),
        (dict(img_size=0), r"img_size must be one or two whole numbers of pixels, got \(0, 0\)"),
        (dict(img_size="32"), "img_size must be one or two whole numbers"),
        (dict(img_size=(32, 32, 32)), "img_size must be one or two whole numbers"),
        (dict(img_size=30), "multiples of the patch size 4, got 30x30"),
        (dict(in_channels=0), "in_channels must be a whole number of at least 1, got 0"),
        (dict(window_size=2.5), "window_size must be a whole number of at least 1, got 2.5"),
        (dict(drop_path_rate=[0.1, 0.2]), r"one for each of \d+ blocks, got \[0.1, 0.2\]"),
        (dict(drop_path_rate=2.0), r"drop_path_rate must be in \[0, 1\), .* got 2.0"),
        (dict(out_type="map"), "out_type must be one of featmap, .*; got 'map'"),
        (dict(out_type="cls_token", with_cls_token=False), "needs a class token"),
        (dict(survivor_order="x"), "survivor_order must be one of window, raster; got 'x'"),
        (dict(window_rope="x"), "window_rope must be one of origin, slot; got 'x'"),
        (dict(out_indices=(4,)), r"out_indices must be ascending blocks of 0..3, got \[4\]"),
        (dict(out_indices=()), "out_indices must name at least one block"),
        (
            dict(WINDOWS, global_block_indexes=(3, 1)),
            r"global_block_indexes must be ascending blocks of 0..3, got \[3, 1\]",
        ),
        (dict(frozen_stages=5), r"frozen_stages must be in -1..4, got 5"),
        (dict(use_rel_pos=True), "expected no prefix tokens, got 1"),
        (dict(global_block_indexes=(1,)), "needs a window_size, got None"),
        (dict(WINDOWS, use_rel_pos=True), "needs window_rope='slot', got 'origin'"),
        (dict(reducer=CROPR), "reducer and schedule go together"),
        (dict(fusion=LLF), "fusion needs both"),
        (dict(init_cfg=dict(type="Kaiming")), "init_cfg must be dict"),
        (dict(init_cfg=dict(type="Pretrained", file="x")), "init_cfg must be dict"),
        (dict(reducer=CROPR, schedule=keep({3: 9})), r"blocks in \[0, 2\].*got block 3"),
        (dict(reducer=CROPR, schedule=keep({1: 99})), "at most 64 patch tokens"),
        (
            dict(WINDOWS, reducer=CROPR, schedule=keep({1: 9})),
            r"9 tokens kept at block 1 enter window attention in block 2.*multiple of 2\*\*2 = 4",
        ),
        (
            dict(WINDOWS, reducer=CROPR, schedule=keep({1: 28}), survivor_order="raster"),
            "rectangle of whole 2x2 windows inside the 8x8 grid, got 28 tokens = 7 windows",
        ),
        (
            dict(
                with_cls_token=False,
                reducer=dict(type="cropr_mm.AttnTopK"),
                schedule=keep({1: 9}),
            ),
            "reads the attention of the class token, got a model without",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprViT(ARCH, **{"img_size": 32, **options})


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            "vit_base_patch15_224",
            "is none of .* nearest: vit_base_patch16_224",
        ),
        (dict(embed_dim=16, depth=2), r"missing \['num_heads'\]"),
        (dict(ARCH, width=3), r"unknown \['width'\]"),
        (dict(ARCH, mlp="relu"), "mlp must be one of"),
        (dict(ARCH, num_heads=3), "multiple of num_heads, got 16 and 3"),
        (dict(ARCH, num_heads=8), "multiple of 4, got 16 / 8 = 2"),
        (dict(ARCH, depth=0), "depth must be at least 1, got 0"),
    ],
)
def test_wrong_architectures_are_named(arch: str | dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CroprViT(arch)


def test_unknown_arguments_fail() -> None:
    with pytest.raises(TypeError, match="window"):
        CroprViT(ARCH, window=2)


def test_an_image_that_patches_do_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="multiples of the patch size 4, got 30x32"):
        CroprViT(ARCH, img_size=32)(torch.zeros(1, 3, 30, 32))


def test_output_types() -> None:
    model = CroprViT(ARCH, img_size=32, reducer=CROPR, schedule=keep({1: 10})).eval()
    img = torch.randn(2, 3, 32, 32)
    outputs = {}
    with torch.no_grad():
        for out_type in ("featmap", "raw", "avg_featmap", "avg_all", "cls_token"):
            model.out_type = out_type
            (outputs[out_type],) = model(img)
    assert outputs["featmap"].shape == (2, 16, 8, 8)
    assert outputs["raw"].shape == (2, 65, 16)
    assert {tuple(outputs[k].shape) for k in ("avg_featmap", "avg_all", "cls_token")} == {(2, 16)}
    patches = outputs["raw"][:, 1:].transpose(1, 2).reshape(2, 16, 8, 8)
    torch.testing.assert_close(outputs["featmap"], patches)
    torch.testing.assert_close(outputs["cls_token"], outputs["raw"][:, 0])


@pytest.mark.parametrize("out_type", ["avg_featmap", "avg_all"])
def test_pooling_averages_the_live_tokens(out_type: str) -> None:
    model = CroprViT(
        ARCH, img_size=32, reducer=CROPR, schedule=keep({1: 10}), out_type=out_type
    ).eval()
    last = []
    model.blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0]))
    with torch.no_grad():
        (got,) = model(torch.randn(2, 3, 32, 32))
        tokens = last[0] if out_type == "avg_all" else last[0][:, 1:]
        torch.testing.assert_close(got, model.norm(tokens.mean(dim=1)))
    assert last[0].shape == (2, 11, 16)


@pytest.mark.parametrize("windows", [False, True])
def test_images_of_other_sizes_use_the_same_reducers(windows: bool) -> None:
    options = WINDOWS if windows else {}
    stages = dict(type="cropr_mm.WindowStages", blocks=[0, 1])
    ratios = dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[0, 1])
    # On 2 x 2 patches the window schedule drops nothing; 3 x 5 patches leave windows unfilled.
    model = CroprViT(
        ARCH,
        img_size=8 if windows else 32,
        reducer=CROPR,
        schedule=stages if windows else ratios,
        fusion=LLF,
        **options,
    ).eval()
    assert list(model.reducers) == ["0", "1"]
    for height, width in ((32, 24), (12, 20), (8, 8)):
        with torch.no_grad():
            (out,) = model(torch.randn(1, 3, height, width))
        assert out.shape == (1, 16, height // 4, width // 4)
        counts = model.tokens_per_block((height // 4, width // 4))
        assert counts[0] == counts[-1] == height * width // 16 + model.num_prefix


@pytest.mark.parametrize("options", [{}, WINDOWS], ids=["global", "windows"])
def test_an_empty_batch_passes(options: dict) -> None:
    model = CroprViT(
        ARCH, img_size=32, reducer=CROPR, schedule=keep({1: 16}), fusion=LLF, **options
    ).eval()
    (out,) = model(torch.zeros(0, 3, 32, 32))
    assert out.shape == (0, 16, 8, 8)
