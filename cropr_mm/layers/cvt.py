"""Layers of CvT on a part of the tokens of a grid; convolutions see zero where one is missing.

B batch, P prefix tokens, N live patch tokens of an h x w grid, C channels, H heads.

Tokens that left and tokens that are masked (``Tokens.policy``) are the same to a convolution, so a
model that masks in training does there what it does in evaluation, where tokens leave.

Source: Wu et al., CvT (arXiv 2103.15808); microsoft/CvT, lib/models/cls_cvt.py, whose names of
parameters these layers have. What becomes of missing tokens: Wei et al., TPS (arXiv 2304.10716),
supplement.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, QuickGELU
from torch import Tensor, nn

from cropr_mm.ops.attention_signals import attention_signals
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import gather_tokens
from cropr_mm.tokens.policy import has_every_cell, update_live, whole_policy
from cropr_mm.tokens.restore import live_map

KEY_STRIDE = 2  # keys and values lie on every second row and column


class ConvEmbed(nn.Module):
    """Overlapping patches of a map, one convolution and a norm over channels.

    Args:
        in_channels: Channels of the map.
        embed_dim: C.
        first: Whether it is of the first stage, which takes 7 x 7 pixels at stride 4; others take
            3 x 3 cells at stride 2.
    """

    def __init__(self, in_channels: int, embed_dim: int, first: bool) -> None:
        super().__init__()
        kernel, stride, padding = (7, 4, 2) if first else (3, 2, 1)
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel, stride, padding)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tokens:
        """Map (B, in_channels, H, W) to tokens, one for each cell, without prefix."""
        x = self.proj(x)
        grid = (x.shape[2], x.shape[3])
        index = torch.arange(grid[0] * grid[1], device=x.device).expand(x.shape[0], -1)
        return Tokens(self.norm(x.flatten(2).transpose(1, 2)), index, grid)


class ConvProjection(nn.Module):
    """Depthwise 3 x 3 convolution and batch norm in front of a linear projection.

    Args:
        dim: C.
        stride: Of the convolution, in cells.
    """

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False)
        self.bn = nn.BatchNorm2d(dim)

    def forward(self, cells: Tensor) -> Tensor:
        """Map (B, C, h, w) to the tokens of a grid, strided, in raster order."""
        return self.bn(self.conv(cells)).flatten(2).transpose(1, 2)

    def each_cell(self, cells: Tensor) -> Tensor:
        """The same without stride; batch norm records nothing of it."""
        norm = self.bn
        x = F.conv2d(cells, self.conv.weight, padding=1, groups=cells.shape[1])
        mean, variance = (None, None) if self.training else (norm.running_mean, norm.running_var)
        x = F.batch_norm(x, mean, variance, norm.weight, norm.bias, self.training, eps=norm.eps)
        return x.flatten(2).transpose(1, 2)


class ConvAttention(nn.Module):
    """Attention of the live tokens to a grid of half their resolution.

    Queries are scaled by C ** -0.5, as published, not by the width of a head.

    Args:
        dim: C.
        num_heads: H.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.conv_proj_q = ConvProjection(dim, 1)
        self.conv_proj_k = ConvProjection(dim, KEY_STRIDE)
        self.conv_proj_v = ConvProjection(dim, KEY_STRIDE)
        self.proj_q = nn.Linear(dim, dim)
        self.proj_k = nn.Linear(dim, dim)
        self.proj_v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, tokens: Tokens, needs: frozenset[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Attend.

        Args:
            x: Normalized features of the tokens, shape (B, P + N, C).
            tokens: The tokens; their ``x`` is not read.
            needs: Signals to compute. They are about the key and the value that the convolutions
                make at a token's own cell; the attention itself has those of every second row and
                column.

        Returns:
            Output, shape (B, P + N, C), and the signals over all P + N tokens.
        """
        prefix, patches = x.split([tokens.num_prefix, tokens.num_patches], dim=1)
        cells = live_map(patches, tokens)
        queries = _at(self.conv_proj_q(cells), tokens)
        q = self._heads(self.proj_q, prefix, queries) * self.num_heads**-0.5
        k = self._heads(self.proj_k, prefix, self.conv_proj_k(cells))
        v = self._heads(self.proj_v, prefix, self.conv_proj_v(cells))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        signals = {}
        if needs:
            with torch.no_grad():
                k = self._heads(self.proj_k, prefix, _at(self.conv_proj_k.each_cell(cells), tokens))
                v = self._heads(self.proj_v, prefix, _at(self.conv_proj_v.each_cell(cells), tokens))
                live = None if tokens.policy is None else whole_policy(tokens) > 0
                signals = attention_signals(q, k, v, needs, live)
        return self.proj(out), signals

    def _heads(self, proj: nn.Linear, prefix: Tensor, patches: Tensor) -> Tensor:
        """Projection of prefix and patches, shape (B, H, P + number, C / H)."""
        x = proj(torch.cat([prefix, patches], dim=1))
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class ConvBlock(nn.Module):
    """Pre-norm block of convolutional attention and MLP.

    Args:
        dim: C.
        num_heads: H.
        drop_path: Probability of skipping a branch in training.
    """

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ConvAttention(dim, num_heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim, act_layer=QuickGELU)

    def apply_attention(
        self, tokens: Tokens, needs: frozenset[str] = frozenset()
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Attention half: the tokens with other features, and the signals that ``needs`` names."""
        y, signals = self.attn(self.norm1(tokens.x), tokens, needs)
        return update_live(tokens, tokens.x + self.drop_path(y)), signals

    def apply_mlp(self, tokens: Tokens) -> Tokens:
        """MLP half."""
        y = self.mlp(self.norm2(tokens.x))
        return update_live(tokens, tokens.x + self.drop_path(y))

    def forward(self, tokens: Tokens) -> Tokens:
        """Both halves."""
        return self.apply_mlp(self.apply_attention(tokens)[0])


class CvtStage(nn.Module):
    """Embedding and blocks of one stage, to be called one by one.

    Args:
        in_channels: Channels of the map that enters.
        embed_dim: C.
        num_heads: H.
        drop_paths: Probability of each block to skip a branch in training.
        first: Whether it is the first stage.
        cls_token: Whether a class token joins the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        num_heads: int,
        drop_paths: list[float],
        first: bool,
        cls_token: bool,
    ) -> None:
        super().__init__()
        self.patch_embed = ConvEmbed(in_channels, embed_dim, first)
        self.blocks = nn.ModuleList(ConvBlock(embed_dim, num_heads, rate) for rate in drop_paths)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if cls_token else None

    def embed(self, x: Tensor) -> Tokens:
        """Map (B, in_channels, H, W) to the tokens that enter the blocks, class token first."""
        tokens = self.patch_embed(x)
        if self.cls_token is None:
            return tokens
        cls_token = self.cls_token.expand(x.shape[0], -1, -1)
        return tokens.replace(x=torch.cat([cls_token, tokens.x], dim=1), num_prefix=1)


def _at(x: Tensor, tokens: Tokens) -> Tensor:
    """Rows of a grid (B, h * w, C) that live tokens belong to, shape (B, N, C)."""
    return x if has_every_cell(tokens) else gather_tokens(x, tokens.index)
