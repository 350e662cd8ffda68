"""Layer normalization of maps. B batch, C channels, H x W map."""

from torch import Tensor, nn

from cropr_mm.registry import MODELS


@MODELS.register_module()
class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of a map of shape (B, C, H, W).

    As ``norm_cfg=dict(type='cropr_mm.ChannelNorm', eps=1e-6)`` it serves the convolutions of the
    host libraries, where its parameters are called ``ln``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize maps (B, C, H, W) over their channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
