"""Multi-head self-attention with one packed projection, over all tokens or inside windows.

B batch, N tokens of an image (window attention: filled up to whole windows), C channels, H heads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.ops.attention import (
    attention_rows,
    column_mean,
    masked_attention,
    partly_masked_attention,
    relative_position_bias,
    resize_relative_table,
)
from cropr_mm.ops.rope import Rope, apply_rope
from cropr_mm.ops.window_attention import prefix_window_attention


class Relative(NamedTuple):
    """What the relative position bias needs.

    Attributes:
        coordinates: Row and column of each token, each of shape (1 or B, N) for global attention
            and (1, window_tokens) in windows, int64.
        extent: Rows and columns of the grid or window, in patches.
    """

    coordinates: tuple[Tensor, Tensor]
    extent: tuple[int, int]


class Geometry(NamedTuple):
    """Where the tokens of one attention call lie.

    Attributes:
        window_tokens: Tokens per window: each run of so many is a window. None: global attention.
        rope: Rotation of every token, prefix included, or None.
        relative: For the relative position bias, or None.
        slots: Slot of each token in the filled-up window layout, or None where windows are full.
        num_slots: Length of that layout.
        num_prefix: In windows: prefix tokens, which attend to all tokens and are seen by all.
        key_bias: Added to all logits of a token as key, shape (B, N), or None; global attention.
        policy: Training mask of the tokens, prefix included, shape (B, N), float32, or None; global
            attention.
        visible: Tokens that each of the first Q tokens attends to, shape (B, Q, N), bool, or None
            for all; global attention without biases.
    """

    window_tokens: int | None = None
    rope: Rope | None = None
    relative: Relative | None = None
    slots: Tensor | None = None
    num_slots: int = 0
    num_prefix: int = 0
    key_bias: Tensor | None = None
    policy: Tensor | None = None
    visible: Tensor | None = None


class Attention(nn.Module):
    """Self-attention on fused kernels that reports what a reducer asks for.

    Args:
        embed_dim: C.
        num_heads: H.
        bias: 'qkv' (plain ViT), 'qv' (EVA: keys have no bias) or 'none'.
        norm: LayerNorm before the output projection (EVA-02 CLIP).
        norm_eps: Its epsilon.
        rope_half: Pairing of channels under RoPE, see ``apply_rope``.
        rel_pos_extent: Rows and columns of the relative position tables, or None for no such bias.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: str = "qkv",
        norm: bool = False,
        norm_eps: float = 1e-6,
        rope_half: bool = False,
        rel_pos_extent: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rope_half = rope_half
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=bias == "qkv")
        self.q_bias = nn.Parameter(torch.zeros(embed_dim)) if bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(embed_dim)) if bias == "qv" else None
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps) if norm else nn.Identity()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.rel_pos_h: nn.Parameter | None = None
        self.rel_pos_w: nn.Parameter | None = None
        if rel_pos_extent is not None:
            head_dim = embed_dim // num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rel_pos_extent[0] - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * rel_pos_extent[1] - 1, head_dim))

    def forward(
        self, x: Tensor, geometry: Geometry, needs: frozenset[str] = frozenset()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Attend.

        Args:
            x: Normalized tokens, shape (B, N, C).
            geometry: Positions and windows of these tokens.
            needs: Names of attention signals to compute (fields of ``Signals``).

        Returns:
            Output, shape (B, N, C), and the signals over all N tokens.
        """
        batch, num_tokens, _ = x.shape
        qkv = self._project(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, H, d)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]
        signals = {}
        if "keys" in needs:
            signals["keys"] = qk[:, :, 1].mean(dim=2)
        if "values" in needs:
            signals["values"] = v.flatten(2)
        if geometry.rope is not None:
            qk = apply_rope(qk, geometry.rope, self.rope_half)
        if geometry.num_prefix:
            out, found = self._attend_in_windows(qk, v, geometry, needs)
            return self.proj(self.norm(out)), {**signals, **found}
        length = geometry.window_tokens or num_tokens
        windows = batch * (num_tokens // length)
        split = (windows, length, self.num_heads, v.shape[-1])
        q = qk[:, :, 0].reshape(split).transpose(1, 2)  # (B * windows, H, length, d)
        k = qk[:, :, 1].reshape(split).transpose(1, 2)
        v = v.reshape(split).transpose(1, 2)
        bias = self._relative_bias(q, geometry.relative)
        if geometry.key_bias is not None:
            key_bias = geometry.key_bias[:, None, None].to(q.dtype)  # (B, 1, 1, N)
            bias = key_bias if bias is None else bias + key_bias
        if "cls_row" in needs or "cls_heads" in needs:
            row = None if bias is None else bias[:, :, :1]
            heads = attention_rows(q[:, :, :1], k, row)[:, :, 0]  # (B, H, N)
            if "cls_row" in needs:
                signals["cls_row"] = heads.mean(dim=1)
            if "cls_heads" in needs:
                signals["cls_heads"] = heads.transpose(1, 2)
        if "column_mean" in needs or "column_heads" in needs:
            with torch.no_grad():  # a graph would hold the N x N matrix
                whole = None if bias is None else bias.expand(-1, -1, length, -1)
                # No token attends to dead tokens, and what they attend to has no meaning.
                live = None if geometry.key_bias is None else geometry.key_bias.isfinite()
                heads = column_mean(q, k, whole, live)  # (B * windows, H, length)
            if "column_mean" in needs:
                signals["column_mean"] = heads.mean(dim=1).view(batch, num_tokens)
            if "column_heads" in needs:
                signals["column_heads"] = heads.transpose(1, 2).reshape(batch, num_tokens, -1)
        if geometry.visible is not None:
            out = partly_masked_attention(q, k, v, geometry.visible)
        elif geometry.policy is not None:
            out = masked_attention(q, k, v, geometry.policy, bias)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = out.transpose(1, 2).reshape(x.shape)
        return self.proj(self.norm(out)), signals

    def _attend_in_windows(
        self, qk: Tensor, v: Tensor, geometry: Geometry, needs: frozenset[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Window attention beside prefix tokens; queries and keys (B, N, 2, H, d)."""
        assert geometry.window_tokens is not None, "prefix tokens stand apart in windows only"
        real = None
        if geometry.slots is not None:
            real = torch.zeros(geometry.num_slots, dtype=torch.bool, device=v.device)
            real = real.index_fill(0, geometry.slots, True)
        out, signals = prefix_window_attention(
            qk[:, :, 0].transpose(1, 2),
            qk[:, :, 1].transpose(1, 2),
            v.transpose(1, 2),
            geometry.num_prefix,
            geometry.window_tokens,
            real,
            needs,
        )
        return out.transpose(1, 2).flatten(2), signals

    def _project(self, x: Tensor) -> Tensor:
        if self.q_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        if isinstance(self.qkv, nn.Linear):
            return F.linear(x, self.qkv.weight, bias)
        return self.qkv(x) + bias  # with an adapter beside the layer

    def _relative_bias(self, q: Tensor, relative: Relative | None) -> Tensor | None:
        if self.rel_pos_h is None or self.rel_pos_w is None or relative is None:
            return None
        tables = (
            resize_relative_table(self.rel_pos_h, relative.extent[0]),
            resize_relative_table(self.rel_pos_w, relative.extent[1]),
        )
        return relative_position_bias(q, tables, relative.coordinates)
