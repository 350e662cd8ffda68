"""From pixels to patch tokens, one matmul or a convolutional stem, and their learned positions.

B batch, N patches, C channels.
"""

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cropr_mm.layers.arch import Arch
from cropr_mm.layers.progressive_sampling import ProgressiveSampling


class PatchEmbed(nn.Module):
    """One linear layer on the pixels of each patch.

    It is the convolution whose kernel and stride are the patch, and has its parameters, but runs as
    a matrix product: on CPUs the convolution kernel is many times slower at this shape.

    Args:
        patch_size: In pixels.
        in_channels: Image channels.
        embed_dim: C.
    """

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, img: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to tokens (B, N, C) in raster order."""
        side = self.patch_size
        patches = img.unflatten(2, (-1, side)).unflatten(4, (-1, side))  # (B, c, h, s, w, s)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, c * s * s)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class ConvStem(nn.Module):
    """Three convolutions at half resolution, then one that cuts patches; grid as without them.

    A 7x7 convolution of stride 2 and two 3x3 ones, each with batch norm and ReLU, then one whose
    kernel and stride are ``patch_size / 2``. Parameters have the names of released LV-ViT files.

    Args:
        patch_size: In pixels, even.
        in_channels: Image channels.
        width: Channels of the first three convolutions: 64, and 128 in LV-ViT-L.
        embed_dim: C.

    Raises:
        ValueError: If the patch size is odd.

    Source: Jiang et al., All Tokens Matter (arXiv 2104.10858); TokenLabeling, models/layers.py
    (``PatchEmbed4_2``).
    """

    def __init__(self, patch_size: int, in_channels: int, width: int, embed_dim: int) -> None:
        super().__init__()
        if patch_size % 2:
            raise ValueError(f"arch: conv_stem needs an even patch size, got {patch_size}")
        self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.proj = nn.Conv2d(width, embed_dim, patch_size // 2, stride=patch_size // 2)

    def forward(self, img: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to tokens (B, N, C) in raster order."""
        x = self.bn1(self.conv1(img)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
        return self.proj(x).flatten(2).transpose(1, 2)


def make_patch_embed(arch: Arch, patch_size: int, in_channels: int) -> nn.Module:
    """Images (B, in_channels, H, W) to tokens (B, N, C), as the architecture says."""
    if arch.sampling_steps:
        return ProgressiveSampling(arch, patch_size, in_channels)
    if arch.conv_stem is not None:
        return ConvStem(patch_size, in_channels, arch.conv_stem, arch.embed_dim)
    return PatchEmbed(patch_size, in_channels, arch.embed_dim)


def add_positions(
    x: Tensor,
    prefix: list[Tensor],
    pos_embed: Tensor,
    rows: int,
    native_grid: tuple[int, int],
    grid: tuple[int, int],
) -> tuple[Tensor, list[Tensor]]:
    """Add the learned position embedding to patch and prefix tokens.

    Args:
        x: Patch tokens in raster order, shape (B, N, C).
        prefix: Class and register tokens, each of shape (1, number, C).
        pos_embed: Embedding of the native grid, shape (1, rows + native N, C).
        rows: Its first rows, which belong to the prefix; 0 where the prefix has no position.
        native_grid: Grid (h, w) of ``pos_embed``.
        grid: Grid of the patches; the embedding is interpolated for another one.

    Returns:
        Patch tokens, and prefix tokens.
    """
    if grid != native_grid:
        pos_embed = resample_abs_pos_embed(
            pos_embed, new_size=grid, old_size=native_grid, num_prefix_tokens=rows
        )
    x = x + pos_embed[:, rows:]
    return x, [torch.cat(prefix, dim=1) + pos_embed[:, :rows]] if rows else prefix
