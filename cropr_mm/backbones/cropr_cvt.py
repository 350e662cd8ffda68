"""CvT, convolutions and transformer blocks in three stages, that drops tokens inside the last one.

B batch, P prefix tokens, N patch tokens of the last stage's h x w grid, C channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm.layers import to_2tuple
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.checks import (
    check_choices,
    check_images,
    check_init_cfg,
    check_sizes,
    drop_path_rates,
)
from cropr_mm.backbones.feature_maps import make_output
from cropr_mm.backbones.signals import IMAGE_SIGNALS
from cropr_mm.checkpoints import load_cvt
from cropr_mm.layers.cvt import CvtStage
from cropr_mm.layers.cvt_arch import resolve_cvt
from cropr_mm.layers.initial import reset_linear
from cropr_mm.ops.attention_signals import CLS_SIGNALS, KEY_SIGNALS
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import live_map


@MODELS.register_module()
class CroprCvT(ReducingBackbone):
    """CvT with token reduction inside its last stage, which has the class token.

    Without ``reducer`` it is the published model. Depthwise convolutions make queries, keys and
    values from the whole grid, in which dropped tokens are zero; keys and values are those of every
    second row and column. Linear layers of queries, outputs of attention and MLPs run on live
    tokens only. Blocks are counted within the last stage, from 0.

    Args:
        arch: 'cvt_13', 'cvt_21', 'cvt_w24', or dimensions as a dict (``embed_dims``, ``depths``,
            ``num_heads``, one entry for each stage).
        img_size: Native image side or (height, width), in pixels, which the schedule is checked
            for; any other works in forward that fits it.
        in_channels: Image channels.
        drop_path_rate: Of the last block, rising linearly from 0 within the last stage. With a
            reducer the last block has 0: dropped tokens must not skip it.
        reducer: Config of a pruner, built once per block of the schedule. It keeps tokens in their
            cells. What it reads about attention is of the keys that the convolutions make in every
            cell, which the attention has in every second row and column.
        schedule: Config of the schedule, block of the last stage -> patch tokens kept.
        fusion: Config of the fusion before or after the last block, or None for none.
        out_indices: Stages (0-based, ascending) whose output is returned; the last one is in it.
        out_type: Output of the last stage: 'featmap' (B, C, h, w) holds every token, dropped ones
            with the features they had; 'raw' (B, 1 + N, C); 'avg_featmap' and 'avg_all' (B, C)
            average the live tokens, without and with the class token; 'cls_token' (B, C).
        deploy: Build reducers in their stripped inference form.
        init_cfg: None or dict(type='Pretrained', checkpoint=path, prefix='').

    Raises:
        ValueError: If arguments or the schedule do not fit together, with the numbers.

    Source: Wu et al., CvT (arXiv 2103.15808), and microsoft/CvT, lib/models/cls_cvt.py; the padding
    by zero is that of Wei et al. (arXiv 2304.10716, supplement), whose code for CvT is not
    released. Published models classify the normed class token; the norm of the other outputs is
    ours.
    """

    num_prefix = 1
    has_cls = True
    signals = IMAGE_SIGNALS | KEY_SIGNALS | CLS_SIGNALS
    serves_masks = True

    def __init__(
        self,
        arch: str | Mapping[str, Sequence[int]],
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        reducer: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        out_indices: Sequence[int] = (2,),
        out_type: str = "featmap",
        deploy: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_init_cfg(init_cfg)
        check_choices(out_type=out_type)
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        check_sizes(self.img_size, 1, in_channels)
        dims = resolve_cvt(arch)
        last = len(dims.depths) - 1
        known = sorted(set(out_indices) & set(range(last + 1)))
        if list(out_indices) != known or last not in known:
            raise ValueError(
                f"out_indices must be ascending stages of 0..{last} that end with {last}, "
                f"got {tuple(out_indices)}"
            )
        self.out_indices = tuple(out_indices)
        self.out_type = out_type
        self.in_channels = in_channels
        self.out_channels = tuple(dims.embed_dims[i] for i in self.out_indices)
        self.embed_dim, self.depth = dims.embed_dims[last], dims.depths[last]
        self.num_heads = dims.num_heads[last]
        self.patch_size = 4 * 2**last
        rates = drop_path_rates(drop_path_rate, self.depth, reducer is not None)
        self.stages = nn.ModuleList(
            CvtStage(
                in_channels if i == 0 else dims.embed_dims[i - 1],
                dim,
                dims.num_heads[i],
                rates if i == last else [0.0] * dims.depths[i],
                first=i == 0,
                cls_token=i == last,
            )
            for i, dim in enumerate(dims.embed_dims)
        )
        self.norm = nn.LayerNorm(self.embed_dim)
        reset_linear(self.stages)
        nn.init.trunc_normal_(self.stages[-1].cls_token, std=0.02)
        self.grid = self.patch_grid(self.img_size)
        self.build_schedule(reducer, schedule, fusion)
        self.build_reducers(reducer, deploy)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            img: Images, shape (B, in_channels, H, W).

        Returns:
            Maps (B, C, h, w) of the stages of ``out_indices``, of strides 4, 8 and 16; for the last
            one what ``out_type`` says.

        Raises:
            ValueError: If these are no such images, or their size does not fit the schedule.
        """
        check_images(img, self.in_channels)
        x = img
        outputs = []
        for i, stage in enumerate(self.stages[:-1]):
            tokens = stage.embed(x)
            for block in stage.blocks:
                tokens = block(tokens)
            x = live_map(tokens.x, tokens).contiguous()
            if i in self.out_indices:
                outputs.append(x)
        encoded = self.run_blocks(self.stages[-1].embed(x), img)
        last = make_output(encoded.tokens, encoded.dropped, self.out_type, self.norm, False)
        return (*outputs, last)

    @property
    def blocks(self) -> nn.ModuleList:
        """Blocks of the last stage."""
        return self.stages[-1].blocks

    def patch_grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of the last stage for an image (height, width) in pixels."""
        height, width = ((side - 3) // 4 + 1 for side in img_size)
        for _ in self.stages[1:]:
            height, width = -(-height // 2), -(-width // 2)
        return height, width

    def apply_attention(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: None
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply the attention half of a block; see :meth:`ReducingBackbone.apply_attention`."""
        return self.blocks[block].apply_attention(tokens, needs - IMAGE_SIGNALS)

    def apply_mlp(self, block: int, tokens: Tokens, context: None) -> Tokens:
        """Apply the MLP half of a block; see :meth:`ReducingBackbone.apply_mlp`."""
        return self.blocks[block].apply_mlp(tokens)

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``; parameters were initialized on construction."""
        if self.init_cfg is not None:
            load_cvt(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix", ""))
