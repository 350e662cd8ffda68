"""Simple feature pyramid: sizes, values against a plain version, and bad arguments."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.necks import SimpleFPN
from cropr_mm.registry import MODELS


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_levels_have_the_sizes_of_vitdet(height: int, width: int) -> None:
    outs = SimpleFPN(32, 16)((torch.randn(2, 32, height, width),))
    expected = [(4 * height, 4 * width), (2 * height, 2 * width), (height, width)]
    expected += [(height // 2, width // 2), (-(-height // 2 // 2), -(-width // 2 // 2))]
    assert [tuple(out.shape) for out in outs] == [(2, 16, *size) for size in expected]


def test_two_levels_are_subsampled_from_the_last() -> None:
    outs = SimpleFPN(8, 4, scale_factors=(1.0,), num_outs=3)((torch.randn(1, 8, 9, 9),))
    assert torch.equal(outs[1], outs[0][:, :, ::2, ::2])
    assert torch.equal(outs[2], outs[0][:, :, ::4, ::4])


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def test_finest_level_equals_a_plain_version() -> None:
    neck = SimpleFPN(16, 8).double()
    for parameter in neck.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 16, 5, 4, dtype=torch.float64)
    up1, norm, _, up2, conv1, norm1, conv3, norm3 = neck.levels[0]
    y = F.conv_transpose2d(x, up1.weight, up1.bias, stride=2)
    y = F.gelu(channel_norm(y, norm.weight, norm.bias))
    y = F.conv_transpose2d(y, up2.weight, up2.bias, stride=2)
    y = channel_norm(F.conv2d(y, conv1.weight), norm1.weight, norm1.bias)
    y = channel_norm(F.conv2d(y, conv3.weight, padding=1), norm3.weight, norm3.bias)
    torch.testing.assert_close(neck((x,))[0], y)


def test_enlarged_levels_start_without_checkerboard() -> None:
    fine = SimpleFPN(16, 8, scale_factors=(2.0,), num_outs=1).levels[0][0](torch.randn(1, 16, 3, 3))
    cells = fine.unflatten(3, (3, 2)).unflatten(2, (3, 2))  # (1, 8, 3, 2, 3, 2)
    torch.testing.assert_close(cells, cells[:, :, :, :1, :, :1].expand_as(cells))


def test_coarse_level_pools_before_its_convolutions() -> None:
    neck = SimpleFPN(8, 4, scale_factors=(1.0, 0.5), num_outs=2)
    for pooled, plain in zip(neck.levels[1][1:], neck.levels[0], strict=True):
        pooled.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(neck((x,))[1], neck((F.max_pool2d(x, 2),))[0])


def test_gradients_reach_every_parameter() -> None:
    neck = SimpleFPN(16, 8)
    sum((out * torch.randn_like(out)).sum() for out in neck((torch.randn(1, 16, 8, 8),))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_is_built_by_its_registered_name() -> None:
    neck = MODELS.build(dict(type="cropr_mm.SimpleFPN", in_channels=8, out_channels=4))
    assert isinstance(neck, SimpleFPN)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(scale_factors=(3.0,)), "scale factors"),
        (dict(scale_factors=(1.0, 2.0)), "scale factors"),
        (dict(scale_factors=()), "scale factors"),
        (dict(num_outs=3), "num_outs of at least 4"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimpleFPN(8, 4, **arguments)


def test_each_of_several_maps_makes_its_own_level() -> None:
    neck = SimpleFPN(8, 4, scale_factors=(2.0, 1.0), num_outs=3)
    maps = torch.randn(2, 1, 8, 4, 4)
    fine, same, coarse = neck(tuple(maps))
    torch.testing.assert_close(fine, neck((maps[0],))[0])
    torch.testing.assert_close(same, neck((maps[1],))[1])
    torch.testing.assert_close(coarse, neck((maps[1],))[2])


def test_another_number_of_maps_is_refused() -> None:
    maps = (torch.zeros(1, 8, 4, 4),) * 2
    with pytest.raises(ValueError, match=r"expected one feature map or 4 .*, got 2"):
        SimpleFPN(8, 4)(maps)


def test_region_features_follow_the_map() -> None:
    from mmcv.ops import roi_align

    neck = SimpleFPN(8, 4, scale_factors=(2.0, 1.0, 0.5), num_outs=4)
    box = torch.tensor([[0.0, 0, 0, 4, 4]])
    for out in neck((torch.randn(1, 8, 8, 8),)):
        assert out.is_contiguous()
        regions = roi_align(out, box, (4, 4), 1.0, 1, "avg", True)
        if out.shape[-1] >= 4:
            torch.testing.assert_close(regions, out[:, :, :4, :4])
