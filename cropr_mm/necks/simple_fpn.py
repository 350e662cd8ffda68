"""Feature pyramid from the one feature map of a plain Vision Transformer.

B batch, C channels, H x W feature map.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from cropr_mm.layers.channel_norm import ChannelNorm
from cropr_mm.registry import MODELS


@MODELS.register_module()
class SimpleFPN(BaseModule):
    """Simple feature pyramid: every level is a resized copy of the last feature map.

    Given one map per level, all of the same size, each level is made from its own.

    A level is enlarged by transposed convolutions, each halving the channels, or shrunk by max
    pooling, then brought to ``out_channels`` by a 1 x 1 and a 3 x 3 convolution, both with channel
    normalization. Further levels are taken from the last one by subsampling with stride 2.

    Args:
        in_channels: Channels of the feature map.
        out_channels: Channels of every level.
        scale_factors: Size of each level relative to the map: powers of two from 1/32 to 4,
            descending. A map of stride 16 and the default give strides 4, 8, 16 and 32.
        num_outs: Levels in all; those beyond ``scale_factors`` are subsampled.
        norm_eps: Epsilon of the normalization.
        init_cfg: Initialization, as in mmengine.

    Raises:
        ValueError: If the scale factors or the number of levels do not fit.

    Source: Li et al., arXiv 2203.16527, section 3 (ViTDet). Ours starts transposed convolutions
    with equal weights inside a cell, see :func:`_enlargement`; detectron2 with unequal ones.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        scale_factors: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
        num_outs: int = 5,
        norm_eps: float = 1e-6,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        allowed = [2.0**power for power in range(2, -6, -1)]
        if not scale_factors or list(scale_factors) != sorted(
            set(scale_factors) & set(allowed), reverse=True
        ):
            raise ValueError(
                f"expected descending scale factors out of {allowed}, got {tuple(scale_factors)}"
            )
        if num_outs < len(scale_factors):
            raise ValueError(
                f"expected num_outs of at least {len(scale_factors)} (one per scale factor), "
                f"got {num_outs}"
            )
        self.scale_factors = tuple(scale_factors)
        self.num_subsampled = num_outs - len(scale_factors)
        self.levels = nn.ModuleList(
            _make_level(in_channels, out_channels, scale, norm_eps) for scale in scale_factors
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make the pyramid.

        Args:
            inputs: The backbone's output: one map, or one per scale factor, shape
                (B, in_channels, H, W).

        Returns:
            ``num_outs`` maps of ``out_channels`` channels, finest first.

        Raises:
            ValueError: If the number of maps is another.
        """
        if len(inputs) not in (1, len(self.levels)):
            raise ValueError(
                f"expected one feature map or {len(self.levels)} (one per scale factor), "
                f"got {len(inputs)}"
            )
        maps = inputs if len(inputs) > 1 else [inputs[0]] * len(self.levels)
        # mmcv's operators read a map as if it were contiguous, whatever its strides.
        outs = [level(x).contiguous() for level, x in zip(self.levels, maps, strict=True)]
        for _ in range(self.num_subsampled):
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def _make_level(in_channels: int, out_channels: int, scale: float, eps: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = in_channels
    if scale < 1:
        layers.append(nn.MaxPool2d(round(1 / scale)))
    while scale > 1:
        if channels < in_channels:
            layers += [ChannelNorm(channels, eps=eps), nn.GELU()]
        layers.append(_enlargement(channels, channels // 2))
        channels //= 2
        scale /= 2
    layers += [
        nn.Conv2d(channels, out_channels, kernel_size=1, bias=False),
        ChannelNorm(out_channels, eps=eps),
        nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
        ChannelNorm(out_channels, eps=eps),
    ]
    return nn.Sequential(*layers)


def _enlargement(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Transposed convolution that starts as nearest-neighbor enlargement of a linear map.

    With unequal weights the four new cells of an old one would encode the same thing differently,
    and heads that sample between cells learn nothing until that is undone.
    """
    layer = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:, :, :1, :1].expand_as(layer.weight))
    return layer
