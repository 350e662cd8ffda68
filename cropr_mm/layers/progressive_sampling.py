"""Progressive sampling: tokens whose points move over a feature map, in the place of patches.

B batch, N points in raster order of where they start, C channels, H x W map at a quarter of the
image's resolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.layers.arch import Arch
from cropr_mm.layers.attention import Geometry
from cropr_mm.layers.block import Block
from cropr_mm.layers.initial import reset_linear


class Bottleneck(nn.Module):
    """ResNet's bottleneck block of stride 1, for any numbers of channels.

    Args:
        in_channels: Channels that enter.
        width: Channels inside.
        out_channels: Channels that leave.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, out_channels, H, W)."""
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


class SamplingLayer(nn.Module):
    """A transformer block on what was sampled, and where each point goes next.

    Args:
        arch: Dimensions of the block.
        moves: Whether there is a next point.
    """

    def __init__(self, arch: Arch, moves: bool) -> None:
        super().__init__()
        self.block = Block(arch)
        self.offset_layer = nn.Linear(arch.embed_dim, 2) if moves else None


class ProgressiveSampling(nn.Module):
    """Tokens of PS-ViT: sample a map at points, apply a block, move the points, and again.

    Points start in the centers of patches. Each step adds what lies at the points, their positions
    and the tokens of the step before. Offsets, in cells of the map, learn through the values that
    they sample; positions and later points pass no gradient to them. Outside of the map is zero.

    Args:
        arch: Dimensions; ``sampling_steps`` and ``conv_stem`` are read here.
        patch_size: Distance of the points at the start, in pixels, at least 4.
        in_channels: Image channels.

    Raises:
        ValueError: If the patch size is smaller.

    Source: Yue et al., PS-ViT (arXiv 2108.01684); yuexy/PS-ViT, models/ps_vit.py and layers. There
    points are in column order, which only permutes the tokens, and the gradients of the kernel take
    points beyond the border for points on it; ours are exact. Blocks have no dropout and no
    DropPath here.
    """

    def __init__(self, arch: Arch, patch_size: int, in_channels: int) -> None:
        super().__init__()
        if patch_size < 4:
            raise ValueError(f"arch: sampling_steps needs patch_size >= 4, got {patch_size}")
        assert arch.conv_stem is not None, "checked by Arch"
        self.patch_size = patch_size
        width, dim = arch.conv_stem, arch.embed_dim
        middle = min(4 * width, dim)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            Bottleneck(width, width, middle),
            Bottleneck(middle, width, dim),
        )
        self.pos_layer = nn.Linear(2, dim)
        steps = arch.sampling_steps
        self.layers = nn.ModuleList(SamplingLayer(arch, i < steps - 1) for i in range(steps))
        reset_linear(self)
        for layer in self.layers[:-1]:
            nn.init.zeros_(layer.offset_layer.weight)

    def forward(self, img: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to tokens (B, N, C) in raster order of their patches."""
        cells = self.stem(img)
        size = torch.tensor(cells.shape[2:], device=img.device, dtype=torch.float32)
        grid = [int(side) // self.patch_size for side in img.shape[2:]]
        place = patch_centers(grid, img.device) * size
        place = place.expand(img.shape[0], -1, -1)
        tokens: Tensor | None = None
        for layer in self.layers:
            position = self.pos_layer((place.detach() / size).to(self.pos_layer.weight.dtype))
            x = sample(cells, place) + position
            tokens, _ = layer.block(x if tokens is None else x + tokens, Geometry())
            if layer.offset_layer is not None:
                place = place.detach() + layer.offset_layer(tokens).float()
        assert tokens is not None, "there is at least one step"
        return tokens


def patch_centers(grid: list[int], device: torch.device) -> Tensor:
    """Row and column of each patch's center in raster order, in shares of the image, (N, 2)."""
    rows, columns = (
        (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side for side in grid
    )
    return torch.cartesian_prod(rows, columns)


def sample(cells: Tensor, place: Tensor) -> Tensor:
    """Values of a map at points, bilinear, zero outside.

    Args:
        cells: Shape (B, C, H, W).
        place: Rows and columns, where cell (0, 0) is the point (0, 0), shape (B, N, 2), float32.

    Returns:
        Shape (B, N, C), dtype of ``cells``; sampled in float32, as half precision does not tell
        neighboring points apart.
    """
    size = torch.tensor(cells.shape[2:], device=place.device, dtype=torch.float32)
    shares = (2 * place + 1) / size - 1  # of the extent of cells, in [-1, 1]
    columns_first = shares.flip(2).unsqueeze(1)  # (B, 1, N, 2)
    values = F.grid_sample(cells.float(), columns_first, align_corners=False)
    return values[:, :, 0].transpose(1, 2).to(cells.dtype)
