"""Patches as one product."""

import pytest
import torch

from cropr_mm.layers.patch_embed import PatchEmbed


@pytest.mark.parametrize(("side", "channels", "size"), [(4, 3, (8, 20)), (5, 1, (15, 5))])
def test_is_the_convolution_whose_stride_is_its_kernel(
    side: int, channels: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(side, channels, 6).double()
    img = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    tokens = embed(img)
    expected = embed.proj(img).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected)
    weight = torch.randn_like(tokens)
    inputs = [img, *embed.parameters()]
    gradients = torch.autograd.grad((tokens * weight).sum(), inputs)
    for got, wanted in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, wanted)
