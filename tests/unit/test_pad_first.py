"""With ``pad_first`` patches of pure padding leave before any other."""

from typing import Any

import pytest
import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.backbones.checks import check_reducer
from cropr_mm.inspection.recorder import PruningRecorder
from cropr_mm.ops.padding import is_padding
from cropr_mm.reducers import TokenMerger, TokenPruner
from cropr_mm.registry import MODELS

ARCH = dict(embed_dim=16, depth=5, num_heads=2, patch_size=4)
WINDOWS = dict(window_size=2, with_cls_token=False, global_block_indexes=[1])
PRUNERS = [n for n, c in MODELS.module_dict.items() if issubclass(c, TokenPruner)]
every_pruner = pytest.mark.parametrize("pruner", PRUNERS)


def encoder(pruner: str = "Cropr", pad_first: bool = True, **changes: Any) -> CroprViT:
    torch.manual_seed(0)
    arguments = dict(
        arch=ARCH,
        img_size=32,
        reducer=dict(type=f"cropr_mm.{pruner}"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 48, 1: 32, 2: 12}),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
        pad_first=pad_first,
    )
    return CroprViT(**{**arguments, **changes}).eval()


def padded(height: int, width: int) -> Tensor:
    """One image of some size on a canvas of 32 x 32 pixels, that is, 8 x 8 patches."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., :height, :width] = torch.randn(1, 3, height, width)
    return image


def left_after(model: CroprViT, images: Tensor) -> Tensor:
    torch.manual_seed(1)  # for the random pruner
    with PruningRecorder(model) as recorder, torch.no_grad():
        model(images)
    return recorder.maps()


def test_a_patch_is_padding_if_it_is_zero_everywhere() -> None:
    image = torch.ones(2, 3, 8, 12)
    image[0, :, :4, 4:8] = 0
    image[0, :2, 4:, :4] = 0  # the third channel is not
    image[1, :, 4:, 4:] = 0
    image[1, 0, 7, 4] = -1e-30  # one pixel
    image[1, 1, 0, 0] = float("nan")
    expected = [[False, True, False, False, False, False], [False] * 5 + [True]]
    assert is_padding(image, 4).tolist() == expected


def test_padding_of_the_data_preprocessor_is_recognized() -> None:
    preprocessor = ImgDataPreprocessor(mean=[123.675] * 3, std=[58.395] * 3, pad_size_divisor=32)
    dark = torch.zeros(3, 18, 30, dtype=torch.uint8)  # black is not padding
    images = preprocessor(dict(inputs=[dark]))["inputs"]
    assert images.shape[-2:] == (32, 32)
    rows, columns = 5, 8  # patches with a pixel of the image
    mask = is_padding(images, 4).view(8, 8)
    assert mask[rows:].all()
    assert not mask[:rows, :columns].any()


@every_pruner
def test_every_pruner_drops_padding_first(pruner: str) -> None:
    images = torch.cat([padded(18, 32), padded(32, 9), padded(8, 8), padded(32, 32)])
    padding = is_padding(images, 4).view(-1, 8, 8)
    assert padding.sum((1, 2)).tolist() == [24, 40, 60, 0]
    maps = left_after(encoder(pruner), images)
    for image, limits in zip(range(3), ([16, 24, 24], [16, 32, 40], [16, 32, 52]), strict=True):
        for block, limit in enumerate(limits):
            gone = (maps[image] >= 0) & (maps[image] <= block)
            assert (gone & padding[image]).sum() == limit
    assert torch.equal(maps[3], left_after(encoder(pruner, pad_first=False), images)[3])


@every_pruner
def test_without_padding_nothing_changes(pruner: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for pad_first in (True, False):
        torch.manual_seed(1)
        outputs.append(encoder(pruner, pad_first)(images)[0])
    assert torch.equal(*outputs)


def test_an_image_does_not_depend_on_the_padding_of_others() -> None:
    model = encoder()
    images = torch.cat([padded(18, 32), padded(32, 9), padded(32, 32)])
    together = left_after(model, images)
    for i in range(3):
        assert torch.equal(left_after(model, images[i : i + 1])[0], together[i])


@pytest.mark.parametrize("options", [{}, WINDOWS])
def test_compiles_and_exports(options: dict) -> None:
    model = encoder(schedule=dict(type="cropr_mm.KeepRatios", ratio=0.25, blocks=[1]), **options)
    images = torch.cat([padded(18, 32), padded(32, 32)])
    with torch.no_grad():
        expected = model(images)[0]
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(images)[0]
        torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
        program = torch.export.export(model, (images,))
        torch.testing.assert_close(program.module()(images)[0], expected, rtol=1e-4, atol=1e-4)


def test_only_a_pruner_can_do_it() -> None:
    with pytest.raises(ValueError, match=r"pad_first .* expected a reducer, got None"):
        encoder(reducer=None, schedule=None, fusion=None)
    merger = TokenMerger(16)
    with pytest.raises(ValueError, match="TokenMerger merges tokens: pad_first needs a pruner"):
        check_reducer(
            merger, has_cls=True, fused=False, windows=False, rel_pos=False, pad_first=True
        )
    check_reducer(merger, has_cls=True, fused=False, windows=False, rel_pos=False, pad_first=False)


def test_the_dense_twin_looks_for_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def note(img: Tensor, patch_size: int) -> Tensor:
        calls.append(patch_size)
        return is_padding(img, patch_size)

    monkeypatch.setattr("cropr_mm.backbones.signals.is_padding", note)
    images = padded(8, 32)
    encoder().unpruned()(images)
    encoder(pad_first=False)(images)
    assert calls == []
    encoder()(images)
    assert calls == [4], "once a forward pass"
