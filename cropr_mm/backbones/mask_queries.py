"""Class queries that join the tokens for the last blocks of an encoder and become masks.

B batch, Q queries, P prefix tokens of the encoder, N cells of the h x w grid, C channels, K
classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.layers.channel_norm import ChannelNorm
from cropr_mm.structures import Tokens


class MaskPredictions(NamedTuple):
    """What queries say, once before each of their blocks in training, and behind the last block.

    Attributes:
        classes: Logits of each query, the last one of no object, each of shape (B, Q, K + 1).
        masks: Logits of each query's mask, each of shape (B, Q, scale * h, scale * w).
    """

    classes: list[Tensor]
    masks: list[Tensor]


class UpscaleBlock(nn.Module):
    """Twice the rows and columns by a transposed and a depth-wise convolution.

    Args:
        embed_dim: C.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(embed_dim, embed_dim, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(
            embed_dim, embed_dim, kernel_size=3, padding=1, groups=embed_dim, bias=False
        )
        self.norm = ChannelNorm(embed_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """From a map (B, C, h, w) to (B, C, 2 h, 2 w)."""
        return self.norm(self.conv2(F.gelu(self.conv1(x))))


class MaskQueries(nn.Module):
    """Queries that the last blocks of a plain ViT process among the tokens of the image.

    Their masks are products with the upscaled tokens, their classes a linear layer. In training a
    query attends to patches inside its own mask alone, as the layers so far predict it, and losses
    are taken before each block too. The share of queries to which that applies falls from 1 to 0
    block by block, see :class:`cropr_mm.hooks.MaskAnnealingHook`, so that inference needs no masks
    of attention and predicts once.

    Args:
        embed_dim: C, given by the backbone.
        patch_size: In pixels, given by the backbone.
        num_queries: Q.
        num_blocks: How many of the last blocks see the queries.
        num_classes: K.
        masked_attention: Whether queries are masked in training, and predict before each block.

    Attributes:
        masked_shares: Share of the queries that are masked in each block, shape (num_blocks,),
            float32; see :meth:`set_masked_shares`.
        masked: Whether any are, by block.

    Raises:
        ValueError: If a number is below 1.

    Source: Kerssies et al., Your ViT is secretly an image segmentation model (EoMT, arXiv
    2503.19108); names of parameters, number of upscaling blocks and random choice of the queries
    without mask as in its released code, models/eomt.py.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_size: int,
        num_queries: int,
        num_blocks: int,
        num_classes: int,
        masked_attention: bool = True,
    ) -> None:
        super().__init__()
        numbers = dict(num_queries=num_queries, num_blocks=num_blocks, num_classes=num_classes)
        if min(numbers.values()) < 1:
            raise ValueError(f"mask_queries expects numbers of at least 1, got {numbers}")
        self.num_queries = num_queries
        self.num_blocks = num_blocks
        self.num_classes = num_classes
        self.masked_attention = masked_attention
        # A tensor, since torch.compile makes a graph anew for each value of a Python number.
        self.register_buffer("masked_shares", torch.ones(num_blocks), persistent=False)
        self.masked_shares: Tensor
        self.masked = (True,) * num_blocks
        self.q = nn.Embedding(num_queries, embed_dim)
        self.class_head = nn.Linear(embed_dim, num_classes + 1)
        layers: list[nn.Module] = [nn.Linear(embed_dim, embed_dim)]
        for _ in range(2):
            layers += [nn.GELU(), nn.Linear(embed_dim, embed_dim)]
        self.mask_head = nn.Sequential(*layers)
        num_upscale = max(1, int(math.log2(patch_size)) - 2)  # to a quarter of the image, or more
        self.upscale = nn.Sequential(*(UpscaleBlock(embed_dim) for _ in range(num_upscale)))

    def set_masked_shares(self, shares: Sequence[float]) -> None:
        """Set the share of masked queries in each block, in [0, 1]."""
        self.masked_shares.copy_(torch.tensor(shares))
        self.masked = tuple(share > 0 for share in shares)

    def join(self, tokens: Tokens) -> Tokens:
        """Put the queries in front of the prefix of tokens of the whole grid."""
        queries = self.q.weight.to(tokens.x.dtype).expand(tokens.x.shape[0], -1, -1)
        return tokens.replace(
            x=torch.cat([queries, tokens.x], dim=1), num_prefix=tokens.num_prefix + self.num_queries
        )

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Predict classes and masks.

        Args:
            x: Normalized tokens, shape (B, Q + P + N, C), patches in raster order.
            tokens: The tokens that they are of.

        Returns:
            Logits of classes (B, Q, K + 1) and of masks (B, Q, scale * h, scale * w).
        """
        queries = x[:, : self.num_queries]
        patches = x[:, tokens.num_prefix :].transpose(1, 2).unflatten(2, tokens.grid)
        features = self.upscale(patches)
        masks = self.mask_head(queries) @ features.flatten(2)
        return self.class_head(queries), masks.unflatten(2, features.shape[2:])

    def visible(self, masks: Tensor, tokens: Tokens, step: int) -> Tensor | None:
        """Tokens that each query attends to in a block.

        Queries and prefix tokens see each other always; patches are seen where the mask is.

        Args:
            masks: Logits that were predicted before the block, (B, Q, scale * h, scale * w).
            tokens: Tokens that enter the block.
            step: Which of their blocks it is, 0 is the first. To its share of the queries, drawn
                at random, their mask applies.

        Returns:
            True where a query attends to a token, shape (B, Q, Q + P + N), bool; None where no
            query is masked.
        """
        if not self.masked[step]:
            return None
        inside = F.interpolate(masks, tokens.grid, mode="bilinear").flatten(2) > 0
        free = torch.rand(masks.shape[:2], device=masks.device) >= self.masked_shares[step]
        always = inside.new_ones((*inside.shape[:2], tokens.num_prefix))
        # No F.pad: torch 2.11 compiles that of bools to invalid C++.
        return torch.cat([always, inside | free.unsqueeze(-1)], dim=2)
