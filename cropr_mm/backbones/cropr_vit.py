"""Vision Transformer that drops tokens on the way and gives all of them back.

B batch, P prefix tokens, N patch tokens of the h x w grid, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.checks import (
    check_choices,
    check_frozen_stages,
    check_images,
    check_init_cfg,
    check_lora,
    check_outputs,
    check_query_blocks,
    check_reducer,
    check_sampled,
    check_sampling,
    check_sizes,
    check_synthetic_rope,
    check_window_positions,
    check_windows,
    drop_path_rates,
)
from cropr_mm.backbones.feature_maps import make_exit_map, make_output
from cropr_mm.backbones.layout import Layout, token_geometry
from cropr_mm.backbones.lora import add_adapters, merge_adapters
from cropr_mm.backbones.mask_queries import MaskPredictions, MaskQueries
from cropr_mm.checkpoints import load_backbone
from cropr_mm.layers.arch import resolve_arch
from cropr_mm.layers.attention import Geometry
from cropr_mm.layers.block import Block
from cropr_mm.layers.initial import reset_linear
from cropr_mm.layers.patch_embed import add_positions, make_patch_embed
from cropr_mm.layers.positions import GridTables, Positions
from cropr_mm.reducers import TokenMerger, TokenReducer
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.policy import update_live


@MODELS.register_module()
class CroprViT(ReducingBackbone):
    """Plain, EVA-02, DINOv2 or DINOv3 encoder with token reduction and fusion.

    Without ``reducer`` it is the dense encoder of the same weights.

    Args:
        arch: timm model name, or dimensions as a dict (see :class:`cropr_mm.layers.arch.Arch`).
        img_size: Native image side or (height, width), in pixels; other sizes work in forward too.
            Default: the architecture's.
        patch_size: In pixels. Default: the architecture's.
        in_channels: Image channels.
        with_cls_token: False drops the class token (windows need that). Default: the
            architecture's.
        drop_path_rate: Of the last block, rising linearly from 0, or of each block. With a reducer
            the last block has 0, as in the released code: dropped tokens must not skip it.
        window_size: Side of attention windows, in patches. Default: global attention everywhere.
        global_block_indexes: Blocks (0-based) with global attention where there are windows.
        survivor_order: How survivors form windows: 'window' keeps window-major order, 'raster' lays
            ascending raster ids out as the smaller rectangle nearest the grid's aspect.
        window_rope: Coordinates in windows: 'origin' (the tokens' own) or 'slot' (their places).
        synthetic_rope: Rotation of tokens that a reducer made and that belong to no cell: 'none',
            or 'mean', that of the weighted mean position of what they were made of.
        use_rel_pos: Decomposed relative position bias (ViTDet); in windows it needs 'slot'.
        reducer: Config of the reducer, built once per block of the schedule.
        schedule: Config of the schedule, block -> patch tokens kept.
        fusion: Config of the fusion before the last blocks or after the last, or None for none.
        mask_queries: Settings of class queries that join the tokens for the last blocks, such as
            dict(num_queries=100, num_blocks=4, num_classes=150), see :class:`MaskQueries`; their
            :class:`MaskPredictions` are one more output, for :class:`cropr_mm.heads.MaskQueryHead`.
        pad_first: Whether pruners drop patches that are padding first, that is, patches of images
            padded after normalization that are exactly 0 (see :func:`is_padding`).
        out_indices: Block or blocks (0-based, negative from the end) whose output is returned.
        out_type: 'featmap' (B, C, h, w) and 'raw' (B, P + N, C) hold every token, dropped ones
            with the features they had; 'avg_featmap' and 'avg_all' (B, C) average the live patch
            tokens, without and with prefix; 'cls_token' (B, C).
        final_norm: Whether the last block's output is normalized (off for EVA-02-det and ViTDet).
        frozen_stages: -1 nothing, 0 the embedding, n >= 1 also the first n blocks.
        with_cp: Activation checkpointing of blocks; reducers run outside of it.
        lora: Settings of low-rank adapters that train in the place of the blocks, such as
            dict(r=8), see :func:`cropr_mm.backbones.lora.add_adapters`; None trains the blocks.
        deploy: Build reducers in their stripped inference form.
        init_cfg: None or dict(type='Pretrained', checkpoint=path, prefix='').

    Raises:
        ValueError: If arguments or the schedule do not fit together, with the numbers.
    """

    signals = frozenset(Signals._fields)

    def __init__(
        self,
        arch: str | dict[str, Any],
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | None = None,
        in_channels: int = 3,
        with_cls_token: bool | None = None,
        drop_path_rate: float | Sequence[float] = 0.0,
        window_size: int | None = None,
        global_block_indexes: Sequence[int] = (),
        survivor_order: str = "window",
        window_rope: str = "origin",
        synthetic_rope: str = "none",
        use_rel_pos: bool = False,
        reducer: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        fusion: dict[str, Any] | None = None,
        mask_queries: dict[str, Any] | None = None,
        pad_first: bool = False,
        out_indices: int | Sequence[int] = -1,
        out_type: str = "featmap",
        final_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        lora: dict[str, Any] | None = None,
        deploy: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_init_cfg(init_cfg)
        check_choices(
            out_type=out_type,
            survivor_order=survivor_order,
            window_rope=window_rope,
            synthetic_rope=synthetic_rope,
        )
        self._set_sizes(arch, img_size, patch_size, in_channels, with_cls_token)
        if self.arch.sampling_steps:
            check_sampling(window_size, use_rel_pos, pad_first)
        self._set_windows(window_size, global_block_indexes, survivor_order)
        self._set_outputs(out_indices, out_type)
        self._set_training(frozen_stages, with_cp)
        self.build_schedule(reducer, schedule, fusion, pad_first)
        self._build_embedding(in_channels)
        self._build_positions(window_rope, use_rel_pos)
        self._build_blocks(drop_path_rate, use_rel_pos, final_norm, pruned=reducer is not None)
        self._reset_parameters()
        self._build_mask_queries(mask_queries)
        self.build_reducers(reducer, deploy)
        self._set_synthetic_rope(synthetic_rope)
        self._freeze()
        if lora is not None:
            check_lora(frozen_stages, deploy)
            add_adapters(self, lora)
            self.frozen_stages = 0  # batch norms of a convolutional embedding rest too

    def forward(self, img: Tensor) -> tuple[Any, ...]:
        """Encode images.

        Args:
            img: Images, shape (B, in_channels, H, W); H and W are multiples of the patch size.

        Returns:
            One tensor per entry of ``out_indices``, of the shape that ``out_type`` says. A reducer
            by which tokens exit (DToP) adds a map of their logits, see :func:`make_exit_map`, and
            mask queries add their :class:`MaskPredictions`.

        Raises:
            ValueError: If these are no such images, or their size does not fit the patch size or
                the schedule.
        """
        check_images(img, self.in_channels)
        grid = self.patch_grid((img.shape[-2], img.shape[-1]))
        tables = self.positions.tables(grid, img.device)
        tokens = self._embed(img, grid, tables)
        layout = Layout(tables, {}, MaskPredictions([], []))
        encoded = self.run_blocks(tokens, img, layout, tables.order, self.out_indices)
        outputs: list[Any] = list(encoded.outputs)
        if self.num_exit_classes:
            outputs.append(make_exit_map(encoded.tokens, encoded.dropped, self.num_exit_classes))
        if self.mask_queries is not None:
            self._predict_masks(self.mask_queries, encoded.tokens, layout)
            outputs.append(layout.predictions)
        return tuple(outputs)

    def enter_block(self, block: int, tokens: Tokens, context: Layout) -> tuple[Tokens, Layout]:
        """Let the mask queries join at their first block and, in training, predict at each."""
        queries = self.mask_queries
        first = self.depth - self.num_query_blocks
        if queries is None or block < first:
            return tokens, context
        if block == first:
            tokens, context = queries.join(tokens), self.renew_context(context)
        if self.training and queries.masked_attention:
            masks = self._predict_masks(queries, tokens, context)
            visible = queries.visible(masks, tokens, block - first)
            rope = self.positions.geometry(tokens, context.tables, windowed=False).rope
            geometries = {False: Geometry(rope=rope, visible=visible)}
            context = Layout(context.tables, geometries, context.predictions)
        return tokens, context

    def apply_attention(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: Layout
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply the attention half of a block; see :meth:`ReducingBackbone.apply_attention`."""
        geometry = self._geometry(block, tokens, context)
        half = self.blocks[block].apply_attention
        x, signals = self._checkpointed(half, tokens.x, geometry, needs)
        return update_live(tokens, x), signals

    def apply_mlp(self, block: int, tokens: Tokens, context: Layout) -> Tokens:
        """Apply the MLP half of a block; see :meth:`ReducingBackbone.apply_mlp`."""
        return update_live(tokens, self._checkpointed(self.blocks[block].apply_mlp, tokens.x))

    def apply_block(
        self, block: int, tokens: Tokens, needs: frozenset[str], context: Layout
    ) -> tuple[Tokens, dict[str, Tensor]]:
        """Apply a whole block; see :meth:`ReducingBackbone.apply_block`."""
        geometry = self._geometry(block, tokens, context)
        x, signals = self._checkpointed(self.blocks[block], tokens.x, geometry, needs)
        return update_live(tokens, x), signals

    def renew_context(self, context: Layout) -> Layout:
        """Forget the geometries of the tokens that were alive."""
        return Layout(context.tables, {}, context.predictions)

    def make_output(self, block: int, tokens: Tokens, dropped: list[Tokens]) -> Tensor:
        """Make the output of a block, of the shape that ``out_type`` says."""
        norm = self.norm if block == self.depth - 1 else nn.Identity()
        return make_output(tokens, dropped, self.out_type, norm, self.arch.norm_after_pool)

    def patch_grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image (height, width), in pixels.

        Raises:
            ValueError: If the patch size does not divide the image.
        """
        height, width = int(img_size[0]), int(img_size[1])  # a tracer gives tensors
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image height and width must be multiples of the patch size {self.patch_size}, "
                f"got {height}x{width} pixels (in the data preprocessor set pad_size_divisor for "
                "mmdet and mmpretrain, size_divisor, also in its test_cfg, for mmseg)"
            )
        return height // self.patch_size, width // self.patch_size

    def prefix_at(self, block: int) -> int:
        """Tokens in front of the patches that a block (0-based) sees."""
        if self.mask_queries is None or block < self.depth - self.num_query_blocks:
            return self.num_prefix
        return self.num_prefix + self.mask_queries.num_queries

    def is_windowed(self, block: int) -> bool:
        """Whether the attention of a block (0-based) works in windows."""
        return self.window_size is not None and block not in self.global_block_indexes

    def check_reducer(self, reducer: TokenReducer) -> None:
        """Raise ValueError for a reducer that cannot work in this encoder."""
        if self.arch.sampling_steps:
            check_sampled(reducer)
        check_reducer(
            reducer,
            has_cls=self.cls_token is not None,
            fused=self.fusion is not None,
            windows=self.window_size is not None,
            rel_pos=self.positions.rel_pos,
            pad_first=self.pad_first,
        )

    @property
    def proportional(self) -> bool:
        """Whether attention counts a merged token as the cells behind it."""
        mergers = [r for r in self.reducers.values() if isinstance(r, TokenMerger)]
        return any(merger.proportional for merger in mergers)

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``; parameters were initialized on construction."""
        if self.init_cfg is not None:
            load_backbone(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix", ""))

    def switch_to_deploy(self) -> None:
        """Strip every reducer to what inference needs, and merge adapters into their layers."""
        merge_adapters(self)
        super().switch_to_deploy()

    def train(self, mode: bool = True) -> "CroprViT":
        """Switch training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _set_sizes(
        self,
        arch: str | dict[str, Any],
        img_size: int | tuple[int, int] | None,
        patch_size: int | None,
        in_channels: int,
        with_cls_token: bool | None,
    ) -> None:
        self.in_channels = in_channels
        self.arch = resolve_arch(arch)
        self.embed_dim = self.arch.embed_dim
        self.depth = self.arch.depth
        self.num_heads = self.arch.num_heads
        self.patch_size = self.arch.patch_size if patch_size is None else patch_size
        self.img_size: tuple[int, int] = to_2tuple(
            self.arch.img_size if img_size is None else img_size
        )
        self.has_cls = self.arch.cls_token if with_cls_token is None else with_cls_token
        self.num_prefix = int(self.has_cls) + self.arch.num_registers
        check_sizes(self.img_size, self.patch_size, in_channels)
        self.grid = self.patch_grid(self.img_size)

    def _set_windows(
        self, window_size: int | None, global_block_indexes: Sequence[int], survivor_order: str
    ) -> None:
        check_windows(window_size, global_block_indexes, self.depth)
        self.window_size = window_size
        self.global_block_indexes = frozenset(global_block_indexes)
        self.survivor_order = survivor_order

    def _set_outputs(self, out_indices: int | Sequence[int], out_type: str) -> None:
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        self.out_indices = tuple(i + self.depth if i < 0 else i for i in indices)
        self.out_channels = (self.embed_dim,) * len(self.out_indices)
        self.out_type = out_type
        check_outputs(self.out_indices, self.depth, out_type, self.has_cls)

    def _set_training(self, frozen_stages: int, with_cp: bool) -> None:
        check_frozen_stages(frozen_stages, self.depth)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

    def _set_synthetic_rope(self, synthetic_rope: str) -> None:
        makes_tokens = any(reducer.synthetic for reducer in self.reducers.values())
        check_synthetic_rope(synthetic_rope, self.arch.rope, makes_tokens)
        self.synthetic_rope = synthetic_rope

    def _build_embedding(self, in_channels: int) -> None:
        dim, registers = self.embed_dim, self.arch.num_registers
        self.patch_embed = make_patch_embed(self.arch, self.patch_size, in_channels)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if self.has_cls else None
        self.reg_token = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        self.pos_embed = None
        if self.arch.pos_embed:
            rows = self.grid[0] * self.grid[1] + self._num_embedded_prefix()
            self.pos_embed = nn.Parameter(torch.empty(1, rows, dim))

    def _build_positions(self, window_rope: str, use_rel_pos: bool) -> None:
        check_window_positions(self.window_size, use_rel_pos, window_rope, self.num_prefix)
        self.positions = Positions(
            self.arch, self.grid, self.num_prefix, self.window_size, window_rope, use_rel_pos
        )

    def _build_blocks(
        self,
        drop_path_rate: float | Sequence[float],
        use_rel_pos: bool,
        final_norm: bool,
        pruned: bool,
    ) -> None:
        rates = drop_path_rates(drop_path_rate, self.depth, pruned)
        self.blocks = nn.ModuleList(
            Block(self.arch, rate, self._rel_pos_extent(i) if use_rel_pos else None)
            for i, rate in enumerate(rates)
        )
        norm = nn.LayerNorm(self.embed_dim, eps=self.arch.norm_eps)
        self.norm = norm if final_norm else nn.Identity()

    def _build_mask_queries(self, settings: dict[str, Any] | None) -> None:
        self.mask_queries = None
        if settings is None:
            return
        self.mask_queries = MaskQueries(self.embed_dim, self.patch_size, **settings)
        self.num_query_blocks = self.mask_queries.num_blocks
        check_query_blocks(
            self.num_query_blocks,
            self.num_restored,
            reduces=self.schedule is not None,
            depth=self.depth,
            windows=self.window_size is not None,
            rel_pos=self.positions.rel_pos,
            out_type=self.out_type,
        )

    def _predict_masks(self, queries: MaskQueries, tokens: Tokens, layout: Layout) -> Tensor:
        """Note what the queries among the tokens predict; returns the masks."""
        classes, masks = queries(self.norm(tokens.x), tokens)
        layout.predictions.classes.append(classes)
        layout.predictions.masks.append(masks)
        return masks

    def _embed(self, img: Tensor, grid: tuple[int, int], tables: GridTables) -> Tokens:
        """Patches with positions, in token order, behind the prefix."""
        x = self.patch_embed(img)
        prefix = [t for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is not None:
            rows = self._num_embedded_prefix()
            x, prefix = add_positions(x, prefix, self.pos_embed, rows, self.grid, grid)
        if self.window_size is not None:
            x = x.index_select(1, tables.order)
        x = torch.cat([t.expand(x.shape[0], -1, -1).to(x.dtype) for t in prefix] + [x], dim=1)
        position = None
        if self.synthetic_rope == "mean":
            places = torch.stack([tables.order // grid[1], tables.order % grid[1]], dim=1)
            position = places.float().expand(x.shape[0], -1, -1)  # (B, N, 2)
        index = tables.order.expand(x.shape[0], -1)
        return Tokens(x, index, grid, self.num_prefix, position=position)

    def _geometry(self, block: int, tokens: Tokens, layout: Layout) -> Geometry:
        """Where the tokens lie for a block, and how much each one counts in its attention."""
        windowed = self.is_windowed(block)
        if windowed not in layout.geometries:
            layout.geometries[windowed] = token_geometry(
                self.positions, layout.tables, tokens, windowed, self.proportional
            )
        return layout.geometries[windowed]

    def _checkpointed(self, function: Any, *args: Any) -> Any:
        """Call a block or half of one, with activation checkpointing where that is on."""
        if self.with_cp and self.training:
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _rel_pos_extent(self, block: int) -> tuple[int, int]:
        return to_2tuple(self.window_size) if self.is_windowed(block) else self.grid

    def _num_embedded_prefix(self) -> int:
        """Rows of ``pos_embed`` that belong to prefix tokens."""
        return self.num_prefix if self.arch.pos_embed_prefix else 0

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.blocks[: self.frozen_stages]]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.requires_grad_(False)
        if self.frozen_stages >= 0:
            for parameter in (self.cls_token, self.reg_token, self.pos_embed):
                if parameter is not None:
                    parameter.requires_grad_(False)

    def _reset_parameters(self) -> None:
        """Truncated normal of std 0.02 for weights and positions, zero for biases (timm's ViT)."""
        for parameter in (self.cls_token, self.reg_token, self.pos_embed):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)
        reset_linear(self.blocks)
