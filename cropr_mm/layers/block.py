"""Pre-norm transformer block in two halves, so that a reducer may act between them."""

from functools import partial

from timm.layers import DropPath, GluMlp, LayerScale, Mlp
from torch import Tensor, nn

from cropr_mm.layers.arch import Arch
from cropr_mm.layers.attention import Attention, Geometry
from cropr_mm.ops.window import pad_to_windows


class Divide(nn.Module):
    """Division by a fixed number."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Divide a tensor of any shape."""
        return x / self.divisor


class Block(nn.Module):
    """Attention and MLP, each with LayerNorm, optional LayerScale or divisor, and DropPath.

    Args:
        arch: Dimensions and layer choices.
        drop_path: Probability of skipping a branch in training.
        rel_pos_extent: Extent of relative position tables, or None.
    """

    def __init__(
        self, arch: Arch, drop_path: float = 0.0, rel_pos_extent: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        dim, eps = arch.embed_dim, arch.norm_eps

        def scale() -> nn.Module:
            if arch.residual_divisor != 1:
                return Divide(arch.residual_divisor)
            return nn.Identity() if arch.layer_scale is None else LayerScale(dim, arch.layer_scale)

        norm = partial(nn.LayerNorm, eps=eps)
        self.norm1 = norm(dim)
        self.attn = Attention(
            dim,
            arch.num_heads,
            bias=arch.attn_bias,
            norm=arch.attn_norm,
            norm_eps=eps,
            rope_half=arch.rope == "dinov3",
            rel_pos_extent=rel_pos_extent,
        )
        self.ls1 = scale()
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm(dim)
        norm_layer = norm if arch.mlp_norm else None
        if arch.mlp == "swiglu":
            self.mlp = GluMlp(
                dim,
                2 * arch.mlp_dim,
                act_layer=nn.SiLU,
                norm_layer=norm_layer,
                gate_last=False,
            )
        else:
            self.mlp = Mlp(dim, arch.mlp_dim, norm_layer=norm_layer)
        self.ls2 = scale()
        self.drop_path2 = DropPath(drop_path)

    def apply_attention(
        self, x: Tensor, geometry: Geometry, needs: frozenset[str] = frozenset()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Attention half: tokens (B, N, C) to tokens and the signals that ``needs`` names."""
        y = self.norm1(x)
        if geometry.slots is not None:
            y = pad_to_windows(y, geometry.slots, geometry.num_slots)
        y, signals = self.attn(y, geometry, needs)
        if geometry.slots is not None:
            y = y.index_select(1, geometry.slots)
            signals = {name: s.index_select(1, geometry.slots) for name, s in signals.items()}
        return x + self.drop_path1(self.ls1(y)), signals

    def apply_mlp(self, x: Tensor) -> Tensor:
        """MLP half: tokens (B, N, C) to tokens."""
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))

    def forward(
        self, x: Tensor, geometry: Geometry, needs: frozenset[str] = frozenset()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Both halves.

        Args:
            x: Tokens, shape (B, N, C), prefix first.
            geometry: Positions and windows.
            needs: Names of attention signals to compute.

        Returns:
            Tokens of the same shape and the signals over all N tokens.
        """
        x, signals = self.apply_attention(x, geometry, needs)
        return self.apply_mlp(x), signals
