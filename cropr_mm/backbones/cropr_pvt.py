"""PVT v2, a pyramid, that drops tokens inside one of its stages.

B batch, C channels, h x w grid of the stage, N = h * w tokens.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from timm.models.pvt_v2 import PyramidVisionTransformerStage, PyramidVisionTransformerV2
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.checks import check_images, check_init_cfg, check_served, check_sizes
from cropr_mm.backbones.pvt_block import apply_attention, apply_mlp
from cropr_mm.backbones.signals import IMAGE_SIGNALS
from cropr_mm.checkpoints import load_pvt
from cropr_mm.reducers import TokenReducer
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import live_map, restore_tokens

_DIMENSIONS = {"depths", "embed_dims", "num_heads", "sr_ratios", "mlp_ratios", "qkv_bias", "linear"}
_KEY_SIGNALS = frozenset({"column_mean", "column_heads", "values"})  # where keys are not reduced


@MODELS.register_module()
class CroprPVT(ReducingBackbone):
    """timm's PVT v2 with token reduction inside one stage.

    Layers and names of weights are timm's; without ``reducer`` so is every output. What is spatial
    keeps the full grid, in which dropped tokens are zero: keys and values before their spatial
    reduction, the depthwise convolution of the MLP, and the next patch embedding. Queries, outputs
    of attention and linear layers run on live tokens only. Where keys are not reduced (the last
    stage), dropped tokens are none. Blocks are counted within the stage, from 0.

    Args:
        arch: timm model name, 'pvt_v2_b0' to 'pvt_v2_b5' or 'pvt_v2_b2_li', or dimensions as a dict
            (timm's ``depths``, ``embed_dims``, ``num_heads``, ``sr_ratios``, ``mlp_ratios``,
            ``qkv_bias``, ``linear``).
        img_size: Native image side or (height, width), in pixels, which the schedule is checked
            for; any other works in forward that fits it.
        in_channels: Image channels.
        drop_path_rate: Of the last block of all stages, rising linearly from 0.
        stage: Stage (0-based) that drops tokens.
        reducer: Config of a pruner, built once per block of the schedule. It keeps tokens in their
            cells: Cropr, NonSalient, RandomPruner, VariancePruner, RadialPruner, DynamicViT, DTPS,
            KMedoids of equal weights. A stage whose keys are not reduced (the last one, but for
            'pvt_v2_b2_li') also serves what reads the attention of all queries: KMedoids; AttnTopK,
            ETPS and ATS with ``signal='column_mean'``.
        schedule: Config of the schedule, block of the stage -> tokens kept.
        out_indices: Stages (0-based, ascending) whose maps are returned; later ones are not built.
        deploy: Build reducers in their stripped inference form.
        init_cfg: None or dict(type='Pretrained', checkpoint=path, prefix='').

    Raises:
        ValueError: If arguments or the schedule do not fit together, with the numbers.

    Source: Wang et al., PVT v2 (arXiv 2106.13797); the padding by zero is that of Wei et al.
    (arXiv 2304.10716, supplement) for pyramids, whose code for them is not released.
    """

    is_pyramid = True

    def __init__(
        self,
        arch: str | dict[str, Any],
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        stage: int = 2,
        reducer: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        deploy: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_init_cfg(init_cfg)
        self.img_size: tuple[int, int] = to_2tuple(img_size)
        check_sizes(self.img_size, 1, in_channels)
        self.in_channels = in_channels
        self._set_stages(stage, out_indices)
        self._build_stages(arch, in_channels, drop_path_rate)
        self.depth = len(self.blocks)
        self.embed_dim = self.blocks[0].norm1.weight.shape[0]
        self.patch_size = 4 * 2**stage
        self.grid = self.patch_grid(self.img_size)
        self.build_schedule(reducer, schedule)
        self.build_reducers(reducer, deploy)

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            img: Images, shape (B, in_channels, H, W).

        Returns:
            Maps (B, C, h, w) of the stages of ``out_indices``, of strides 4, 8, 16 and 32. Dropped
            tokens are in them, with the features they had.

        Raises:
            ValueError: If these are no such images, or their size does not fit the schedule.
        """
        check_images(img, self.in_channels)
        x = self.patch_embed(img)
        outputs = []
        for i, stage in enumerate(self.stages):
            if i == self.stage and len(self.reducers):
                x, whole = self._prune(stage, x, img)
            else:
                x = whole = stage(x)
            if i in self.out_indices:
                outputs.append(whole)
        return tuple(outputs)

    @property
    def blocks(self) -> nn.ModuleList:
        """Blocks of the stage that drops tokens."""
        return self.stages[self.stage].blocks

    @property
    def reduces_keys(self) -> bool:
        """Whether attention of the stage looks at a reduced grid instead of single tokens."""
        return self.blocks[0].attn.sr is not None

    def apply_attention(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: None
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply the attention half of a block; see :meth:`ReducingBackbone.apply_attention`."""
        return apply_attention(self.blocks[block], tokens, needs & _KEY_SIGNALS)

    def apply_mlp(self, block: int, tokens: Tokens, context: None) -> Tokens:
        """Apply the MLP half of a block; see :meth:`ReducingBackbone.apply_mlp`."""
        return apply_mlp(self.blocks[block], tokens)

    def check_reducer(self, reducer: TokenReducer) -> None:
        """Raise ValueError, with the reasons, for a method that this host cannot serve."""
        reduced = self.reduces_keys
        check_served(
            reducer,
            type(self).__name__,
            IMAGE_SIGNALS if reduced else IMAGE_SIGNALS | _KEY_SIGNALS,
            masks=True,
            note=f" (keys are reduced in stage {self.stage})" if reduced else "",
        )

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``; parameters were initialized on construction."""
        if self.init_cfg is not None:
            load_pvt(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix", ""))

    def _set_stages(self, stage: int, out_indices: Sequence[int]) -> None:
        if not out_indices or list(out_indices) != sorted({0, 1, 2, 3} & set(out_indices)):
            raise ValueError(f"out_indices must be ascending stages of 0..3, got {out_indices}")
        if not 0 <= stage <= out_indices[-1]:
            raise ValueError(
                f"stage must be in 0..{out_indices[-1]}, the last one of out_indices, got {stage}"
            )
        self.stage = stage
        self.out_indices = tuple(out_indices)

    def _build_stages(
        self, arch: str | dict[str, Any], in_channels: int, drop_path_rate: float
    ) -> None:
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")
        given = dict(in_chans=in_channels, num_classes=0, drop_path_rate=drop_path_rate)
        model = _build(arch, given)
        self.patch_embed = model.patch_embed
        self.stages = nn.ModuleList(model.stages[: self.out_indices[-1] + 1])
        widths = [stage.norm.weight.shape[0] for stage in self.stages]
        self.out_channels = tuple(widths[i] for i in self.out_indices)

    def _prune(
        self, stage: PyramidVisionTransformerStage, x: Tensor, img: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One stage: map with zeros for dropped tokens, and with the features that they had."""
        if stage.downsample is not None:
            x = stage.downsample(x)  # (B, h, w, C)
        grid = (x.shape[1], x.shape[2])
        index = torch.arange(grid[0] * grid[1], device=x.device).expand(x.shape[0], -1)
        tokens, dropped, _ = self.run_blocks(Tokens(x.flatten(1, 2), index, grid), img)
        live = live_map(stage.norm(tokens.x), tokens).contiguous()
        if self.stage not in self.out_indices:
            return live, live
        whole = stage.norm(restore_tokens(tokens, dropped, None).x)
        return live, whole.transpose(1, 2).unflatten(2, grid).contiguous()


def _build(arch: str | dict[str, Any], given: dict[str, Any]) -> PyramidVisionTransformerV2:
    if isinstance(arch, dict):
        if not set(arch) <= _DIMENSIONS:
            raise ValueError(
                f"arch as a dict takes {', '.join(sorted(_DIMENSIONS))}; "
                f"got unknown {sorted(set(arch) - _DIMENSIONS)}"
            )
        return PyramidVisionTransformerV2(**arch, **given)
    names = timm.list_models("pvt_v2*")
    if arch.split(".", 1)[0] not in names:
        raise ValueError(f"arch must be one of {', '.join(names)}, or a dict; got {arch!r}")
    return timm.create_model(arch, **given)
