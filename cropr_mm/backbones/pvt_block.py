"""Blocks of PVT v2 on a part of the tokens; what is spatial sees zero where others were.

B batch, K live tokens of an h x w grid, C channels. Blocks are timm's, used as they are while every
token is alive.
"""

import torch.nn.functional as F
from timm.models.pvt_v2 import Attention, Block, MlpWithDepthwiseConv
from torch import Tensor

from cropr_mm.ops.gather import gather_tokens
from cropr_mm.ops.restore import zero_padded_map
from cropr_mm.structures import Tokens


def attend(block: Block, tokens: Tokens) -> Tensor:
    """Attention half of a block: tokens to features (B, K, C)."""
    y = block.norm1(tokens.x)
    y = block.attn(y, tokens.grid) if _complete(tokens) else _attention(block.attn, y, tokens)
    return tokens.x + block.drop_path1(y)


def feed(block: Block, tokens: Tokens) -> Tensor:
    """MLP half of a block: tokens to features (B, K, C)."""
    y = block.norm2(tokens.x)
    y = block.mlp(y, tokens.grid) if _complete(tokens) else _mlp(block.mlp, y, tokens)
    return tokens.x + block.drop_path2(y)


def _complete(tokens: Tokens) -> bool:
    return tokens.index.shape[1] == tokens.grid[0] * tokens.grid[1]


def _attention(attn: Attention, y: Tensor, tokens: Tokens) -> Tensor:
    """Live tokens (B, K, C) look at the reduced grid; without reduction, at each other."""
    source = y
    if attn.sr is not None:
        cells = zero_padded_map(y, tokens.index, tokens.grid)
        cells = cells if attn.pool is None else attn.pool(cells)
        source = attn.norm(attn.sr(cells).flatten(2).transpose(1, 2))
        source = source if attn.act is None else attn.act(source)
    q = attn.q(y).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # (B, H, K, d)
    kv = attn.kv(source).unflatten(-1, (2, attn.num_heads, -1))  # (B, M, 2, H, d)
    k, v = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)
    return attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _mlp(mlp: MlpWithDepthwiseConv, y: Tensor, tokens: Tokens) -> Tensor:
    """Linear layers on live tokens (B, K, C), the convolution between them on the whole grid."""
    hidden = mlp.relu(mlp.fc1(y))
    cells = mlp.dwconv(zero_padded_map(hidden, tokens.index, tokens.grid))
    return mlp.fc2(mlp.act(gather_tokens(cells.flatten(2).transpose(1, 2), tokens.index)))
