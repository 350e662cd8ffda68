"""Blocks of PVT v2 on a part of the tokens; spatial layers get zero at cells without a token.

B batch, K tokens of an h x w grid, H heads, C channels. Blocks are timm's, used as they are while
every token is alive. Tokens that are there but masked (``Tokens.policy``) are zero as well, and no
keys where keys are not reduced.
"""

import torch.nn.functional as F
from timm.models.pvt_v2 import Attention, Block, MlpWithDepthwiseConv
from torch import Tensor

from cropr_mm.ops.attention import masked_attention
from cropr_mm.ops.attention_signals import attention_signals
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import gather_tokens
from cropr_mm.tokens.policy import has_every_cell, is_soft, update_live
from cropr_mm.tokens.restore import live_map


def apply_attention(
    block: Block, tokens: Tokens, needs: frozenset[str] = frozenset()
) -> tuple[Tokens, dict[str, Tensor]]:
    """Apply the attention half of a block; also return the signals that ``needs`` names.

    Signals about single keys, ``column_mean``, ``column_heads`` and ``values``, are there only
    where keys are not reduced.
    """
    y = block.norm1(tokens.x)
    signals: dict[str, Tensor] = {}
    if has_every_cell(tokens) and not needs:
        y = block.attn(y, tokens.grid)
    elif block.attn.sr is not None:
        y = _reduced_attention(block.attn, y, tokens)
    else:
        y, signals = _plain_attention(block.attn, y, tokens, needs)
    return update_live(tokens, tokens.x + block.drop_path1(y)), signals


def apply_mlp(block: Block, tokens: Tokens) -> Tokens:
    """Apply the MLP half of a block."""
    y = block.norm2(tokens.x)
    y = block.mlp(y, tokens.grid) if has_every_cell(tokens) else _mlp(block.mlp, y, tokens)
    return update_live(tokens, tokens.x + block.drop_path2(y))


def _reduced_attention(attn: Attention, y: Tensor, tokens: Tokens) -> Tensor:
    """Tokens (B, K, C) look at the reduced grid."""
    cells = live_map(y, tokens)
    cells = cells if attn.pool is None else attn.pool(cells)
    source = attn.norm(attn.sr(cells).flatten(2).transpose(1, 2))
    q, k, v = _project(attn, y, source if attn.act is None else attn.act(source))
    return attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _plain_attention(
    attn: Attention, y: Tensor, tokens: Tokens, needs: frozenset[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Tokens (B, K, C) look at each other."""
    q, k, v = _project(attn, y, y)
    live = None if tokens.policy is None else tokens.policy > 0  # (B, K)
    mask = None if live is None else live[:, None, None]
    signals = attention_signals(q, k, v, needs, live)
    if is_soft(tokens):
        out = masked_attention(q, k, v, tokens.policy, None)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.proj(out.transpose(1, 2).flatten(2)), signals


def _project(attn: Attention, y: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, K, d) of the tokens, keys and values (B, H, M, d) of what they look at."""
    q = attn.q(y).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)
    kv = attn.kv(source).unflatten(-1, (2, attn.num_heads, -1))  # (B, M, 2, H, d)
    return q, kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)


def _mlp(mlp: MlpWithDepthwiseConv, y: Tensor, tokens: Tokens) -> Tensor:
    """Linear layers on the tokens (B, K, C), the convolution between them on the whole grid."""
    cells = mlp.dwconv(live_map(mlp.relu(mlp.fc1(y)), tokens))
    return mlp.fc2(mlp.act(gather_tokens(cells.flatten(2).transpose(1, 2), tokens.index)))
