"""Multiply-adds and parameters of an encoder, counted on the meta device in seconds.

Batch size 1, evaluation mode.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from cropr_mm.profiling.macs import MacCounter, Macs
from cropr_mm.profiling.meta import check_on_meta, count_parameters, deployed_twin, meta_image


@dataclass(frozen=True)
class BlockCost:
    """Tokens that enter one block, prefix included, and what the block and its reducer cost."""

    tokens: int
    macs: Macs


@dataclass(frozen=True)
class EncoderCost:
    """Cost of one encoder at one image size.

    Attributes:
        macs: Of the whole encoder, patch embedding included.
        macs_deployed: The same after ``switch_to_deploy``, which may fold matmuls.
        blocks: Of each block in order.
        params_trained: Parameters with the auxiliary parts that only training has.
        params_deployed: Parameters after ``switch_to_deploy``.
    """

    macs: Macs
    macs_deployed: Macs
    blocks: tuple[BlockCost, ...]
    params_trained: int
    params_deployed: int

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        blocks = [
            {"index": i, "tokens": block.tokens, **block.macs.as_dict()}
            for i, block in enumerate(self.blocks)
        ]
        return {
            **self.macs.as_dict(),
            "deployed": self.macs_deployed.as_dict(),
            "params_trained": self.params_trained,
            "params_deployed": self.params_deployed,
            "blocks": blocks,
        }


def encoder_cost(backbone: nn.Module, img_size: tuple[int, int] | None = None) -> EncoderCost:
    """Count a backbone that reduces tokens on one grid, such as :class:`cropr_mm.CroprViT`.

    Args:
        backbone: Encoder, built on the meta device, in evaluation mode.
        img_size: Height and width in pixels. Default: the encoder's own.

    Raises:
        ValueError: If the encoder is not on the meta device, is in training mode, or the image size
            does not fit.
    """
    check_on_meta(backbone)
    size = backbone.native_size if img_size is None else img_size
    counter = MacCounter()
    entries: dict[int, Macs] = {}

    def enter(block: int) -> None:
        entries.setdefault(block, counter.macs)

    with counter.running(backbone):
        for i, block in enumerate(backbone.blocks):
            # A reducer between attention and MLP makes the backbone call parts of the block.
            for module in block.modules():
                counter.before(module, partial(enter, i))
        backbone(meta_image(backbone, size))
    ends = [*(entries[i] for i in range(1, len(entries))), counter.macs]
    grid = backbone.patch_grid((size[0], size[1]))
    blocks = tuple(
        BlockCost(tokens, ends[i] - entries[i])
        for i, tokens in enumerate(backbone.tokens_per_block(grid))
    )
    stripped, deployed = MacCounter(), deployed_twin(backbone)
    with stripped.running(deployed):
        deployed(meta_image(deployed, size))
    return EncoderCost(counter.macs, stripped.macs, blocks, *count_parameters(backbone))
