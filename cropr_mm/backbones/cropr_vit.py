"""Vision Transformer that drops tokens on the way and gives all of them back.

B batch, P prefix tokens, N patch tokens of the h x w grid, C channels.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, to_2tuple
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.checks import (
    check_blocks,
    check_choices,
    check_init_cfg,
    check_reducer,
    check_reduction,
    check_sizes,
    check_synthetic_rope,
    check_windows,
    drop_path_rates,
)
from cropr_mm.backbones.outputs import make_exit_map, make_output
from cropr_mm.backbones.plan import Plan, make_plan
from cropr_mm.checkpoints import load_backbone
from cropr_mm.fusion import Fusion
from cropr_mm.layers.arch import resolve_arch
from cropr_mm.layers.attention import Geometry
from cropr_mm.layers.block import Block
from cropr_mm.layers.patch_embed import make_patch_embed
from cropr_mm.layers.positions import GridTables, Positions
from cropr_mm.layers.weights import weigh_tokens
from cropr_mm.ops.padding import is_padding
from cropr_mm.ops.variance import patch_variance
from cropr_mm.ops.window import window_major_order
from cropr_mm.reducers import TokenMerger
from cropr_mm.registry import MODELS, TASK_UTILS
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.gather import gather_tokens, take_tokens
from cropr_mm.tokens.policy import update_live

_NOTHING: frozenset[str] = frozenset()


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
            the last block has 0, as in the released code: parked tokens must not skip it.
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
        fusion: Config of the fusion before or after the last block, or None for none.
        pad_first: Whether pruners drop patches that are padding first, that is, patches of images
            padded after normalisation that are exactly 0 (see :func:`is_padding`).
        out_indices: Block or blocks (0-based, negative from the end) whose output is returned.
        out_type: 'featmap' (B, C, h, w) and 'raw' (B, P + N, C) hold every token, dropped ones
            with the features they had; 'avg_featmap' and 'avg_all' (B, C) average the live patch
            tokens, without and with prefix; 'cls_token' (B, C).
        final_norm: Whether the last block's output is normalised (off for EVA-02-det and ViTDet).
        frozen_stages: -1 nothing, 0 the embedding, n >= 1 also the first n blocks.
        with_cp: Activation checkpointing of blocks; reducers run outside of it.
        deploy: Build reducers in their stripped inference form.
        init_cfg: None or dict(type='Pretrained', checkpoint=path, prefix='').

    Raises:
        ValueError: If arguments or the schedule do not fit together, with the numbers.
    """

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
        pad_first: bool = False,
        out_indices: int | Sequence[int] = -1,
        out_type: str = "featmap",
        final_norm: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = resolve_arch(arch)
        self.embed_dim = self.arch.embed_dim
        self.depth = self.arch.depth
        self.num_heads = self.arch.num_heads
        self.patch_size = self.arch.patch_size if patch_size is None else patch_size
        self.img_size: tuple[int, int] = to_2tuple(
            self.arch.img_size if img_size is None else img_size
        )
        has_cls = self.arch.cls_token if with_cls_token is None else with_cls_token
        self.num_prefix = int(has_cls) + self.arch.num_registers
        self.window_size = window_size
        self.global_block_indexes = frozenset(global_block_indexes)
        self.survivor_order = survivor_order
        self.synthetic_rope = synthetic_rope
        taps = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        self.out_indices = tuple(i + self.depth if i < 0 else i for i in taps)
        self.out_type = out_type
        self.frozen_stages = frozen_stages
        self.pad_first = pad_first
        self.with_cp = with_cp
        self.progress = 1.0
        check_sizes(self.img_size, self.patch_size, in_channels, window_size)
        rates = drop_path_rates(drop_path_rate, self.depth, pruned=reducer is not None)
        check_choices(
            out_type=out_type,
            survivor_order=survivor_order,
            window_rope=window_rope,
            synthetic_rope=synthetic_rope,
        )
        check_blocks(self.depth, self.out_indices, global_block_indexes, frozen_stages)
        check_windows(
            window_size, self.num_prefix, bool(global_block_indexes), use_rel_pos, window_rope
        )
        check_reduction(reducer, schedule, fusion, pad_first)
        check_init_cfg(init_cfg)
        if out_type == "cls_token" and not has_cls:
            raise ValueError("out_type='cls_token' needs a class token, got with_cls_token=False")
        self.grid = self.patch_grid(self.img_size)
        self.schedule = None if schedule is None else TASK_UTILS.build(schedule)
        self.fusion = None if fusion is None else self._build_fusion(fusion)

        dim, eps = self.embed_dim, self.arch.norm_eps
        self.patch_embed = make_patch_embed(self.arch, self.patch_size, in_channels)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim)) if has_cls else None
        registers = self.arch.num_registers
        self.reg_token = nn.Parameter(torch.empty(1, registers, dim)) if registers else None
        self.pos_embed = None
        if self.arch.pos_embed:
            rows = self.grid[0] * self.grid[1] + self._num_embedded_prefix()
            self.pos_embed = nn.Parameter(torch.empty(1, rows, dim))
        self.positions = Positions(
            self.arch, self.grid, self.num_prefix, window_size, window_rope, use_rel_pos
        )
        self.blocks = nn.ModuleList(
            Block(self.arch, rate, self._rel_pos_extent(i) if use_rel_pos else None)
            for i, rate in enumerate(rates)
        )
        self.norm = nn.LayerNorm(dim, eps=eps) if final_norm else nn.Identity()
        self._reset_parameters()

        self.reducers = nn.ModuleDict()
        self.proportional = False
        self.num_exit_classes = self.num_fused = 0
        if reducer is not None:
            self._build_reducers(reducer)
        makes_tokens = any(made.synthetic for made in self.reducers.values())
        check_synthetic_rope(synthetic_rope, self.arch.rope, makes_tokens)
        if deploy:
            self.switch_to_deploy()
        self._freeze()

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            img: Images, shape (B, in_channels, H, W); H and W are multiples of the patch size.

        Returns:
            One tensor per entry of ``out_indices``, of the shape that ``out_type`` says. A reducer
            by which tokens exit (DToP) adds a map of their logits, see :func:`make_exit_map`.

        Raises:
            ValueError: If the image size does not fit the patch size or the schedule.
        """
        grid = self.patch_grid((img.shape[-2], img.shape[-1]))
        plan = self._plan(grid)
        tables = self.positions.tables(grid, img.device)
        tokens = self._embed(img, grid, tables)
        statistics = self._statistics(img)
        parked: list[Tokens] = []
        geometries: dict[bool, Geometry] = {}  # by windowed; of the tokens that are alive
        outputs = []
        for i, block in enumerate(self.blocks):
            last = i == self.depth - 1
            if last and self.fusion is not None and self.fusion.site == "before" and parked:
                tokens = self.fusion(tokens, parked, tables.order)
                parked, geometries = [], {}
            reducer = self.reducers[str(i)] if i in plan.num_keep else None
            site = None if reducer is None else reducer.site
            needs = _NOTHING if reducer is None else reducer.needs
            signals: dict[str, Tensor] = {}
            if site == "before":
                tokens = self._reduce(i, tokens, plan, signals, statistics, parked)
                geometries = {}
            windowed = self._is_windowed(i)
            if windowed not in geometries:
                geometries[windowed] = self._geometry(tokens, tables, windowed)
            if site == "between":
                x, signals = self._run(block.attend, tokens.x, geometries[windowed], needs)
                tokens = update_live(tokens, x)
                tokens = self._reduce(i, tokens, plan, signals, statistics, parked)
                geometries = {}
                tokens = update_live(tokens, self._run(block.feed, tokens.x))
            else:
                x, signals = self._run(block, tokens.x, geometries[windowed], needs)
                tokens = update_live(tokens, x)
            if site == "after":
                tokens = self._reduce(i, tokens, plan, signals, statistics, parked)
                geometries = {}
            if last and self.fusion is not None and self.fusion.site == "after" and parked:
                tokens, parked = self.fusion(tokens, parked, tables.order), []
            if i in self.out_indices:
                outputs.append(self._output(tokens, parked, last))
        if self.num_exit_classes:
            outputs.append(make_exit_map(tokens, parked, self.num_exit_classes))
        return tuple(outputs)

    def patch_grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of an image (height, width), in pixels.

        Raises:
            ValueError: If the patch size does not divide the image.
        """
        height, width = img_size
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image height and width must be multiples of the patch size {self.patch_size}, "
                f"got {height}x{width} pixels (in the data preprocessor set pad_size_divisor for "
                "mmdet and mmpretrain, size_divisor, also in its test_cfg, for mmseg)"
            )
        return height // self.patch_size, width // self.patch_size

    def num_keep(self, grid: tuple[int, int] | None = None) -> dict[int, int]:
        """Patch tokens kept at each reducing block, for a grid or the native one."""
        return self._plan(self.grid if grid is None else grid).num_keep

    def unpruned(self) -> "CroprViT":
        """Dense twin that shares every parameter and reduces nothing."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        twin.reducers = nn.ModuleDict()
        twin.schedule = twin.fusion = None
        return twin

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``; parameters were initialised on construction."""
        if self.init_cfg is not None:
            load_backbone(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix", ""))

    def train(self, mode: bool = True) -> "CroprViT":
        """Switch training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        return self

    def _build_fusion(self, cfg: dict[str, Any]) -> Fusion:
        given: dict[str, Any] = {}
        if getattr(MODELS.get(cfg["type"]), "learned", False):
            given = dict(embed_dim=self.embed_dim, num_heads=self.num_heads, grid=self.grid)
        return MODELS.build({**cfg, **given})

    @property
    def last_block_sees_all(self) -> bool:
        """Whether pruned tokens come back before the last block, and not after it or never."""
        return self.fusion is not None and self.fusion.site == "before"

    def _build_reducers(self, cfg: dict[str, Any]) -> None:
        """One reducer per block of the schedule."""
        self.reducers = self.make_reducers(cfg)
        self.num_fused = max(reducer.num_fused for reducer in self.reducers.values())
        left = self.grid[0] * self.grid[1]
        for block, count in self.num_keep().items():  # again, now that the method is known
            self.reducers[str(block)].check_count(left, self.num_prefix, count)
            left = count
        mergers = [r for r in self.reducers.values() if isinstance(r, TokenMerger)]
        self.proportional = any(merger.proportional for merger in mergers)
        for reducer in self.reducers.values():
            self.num_exit_classes = reducer.num_exit_classes
            check_reducer(
                reducer,
                has_cls=self.cls_token is not None,
                fused=self.fusion is not None,
                windows=self.window_size is not None,
                rel_pos=self.positions.rel_pos,
                pad_first=self.pad_first,
            )

    def _embed(self, img: Tensor, grid: tuple[int, int], tables: GridTables) -> Tokens:
        """Patches with positions, in token order, behind the prefix."""
        x = self.patch_embed(img)
        prefix = [t for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is not None:
            rows = self._num_embedded_prefix()
            pos = self.pos_embed
            if grid != self.grid:
                pos = resample_abs_pos_embed(
                    pos, new_size=grid, old_size=self.grid, num_prefix_tokens=rows
                )
            x = x + pos[:, rows:]
            if rows:
                prefix = [torch.cat(prefix, dim=1) + pos[:, :rows]]
        if self.window_size is not None:
            x = x.index_select(1, tables.order)
        x = torch.cat([t.expand(x.shape[0], -1, -1).to(x.dtype) for t in prefix] + [x], dim=1)
        position = None
        if self.synthetic_rope == "mean":
            places = torch.stack([tables.order // grid[1], tables.order % grid[1]], dim=1)
            position = places.float().expand(x.shape[0], -1, -1)  # (B, N, 2)
        index = tables.order.expand(x.shape[0], -1)
        return Tokens(x, index, grid, self.num_prefix, position=position)

    def _geometry(self, tokens: Tokens, tables: GridTables, windowed: bool) -> Geometry:
        """Where the tokens lie and how much each one counts in attention."""
        geometry = self.positions.geometry(tokens, tables, windowed)
        proportional = tokens.size is not None and self.proportional
        if tokens.policy is None and not proportional:
            return geometry
        return weigh_tokens(geometry, tokens, proportional)

    def _statistics(self, img: Tensor) -> dict[str, Tensor]:
        """Signals about the image's patches, by raster id, of shape (B, N) or (B, N, channels)."""
        statistics = {}
        if any("variance" in reducer.needs for reducer in self.reducers.values()):
            statistics["variance"] = patch_variance(img, self.patch_size)
        if self.pad_first and len(self.reducers):
            statistics["padding"] = is_padding(img, self.patch_size)
        return statistics

    def _run(self, function: Any, *args: Any) -> Any:
        """Call a block or half of one, with activation checkpointing where that is on."""
        if self.with_cp and self.training:
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _reduce(
        self,
        block: int,
        tokens: Tokens,
        plan: Plan,
        attention: dict[str, Tensor],
        statistics: dict[str, Tensor],
        parked: list[Tokens],
    ) -> Tokens:
        """One reduction step; what leaves is appended to ``parked``."""
        reducer = self.reducers[str(block)]
        values = {name: signal[:, self.num_prefix :] for name, signal in attention.items()}
        # A token of no cell takes what the first cell has, which is never padding.
        cells = tokens.index.clamp(min=0)
        for name, value in statistics.items():
            flat = value.dim() == 2
            values[name] = value.gather(1, cells) if flat else gather_tokens(value, cells)
        if "noise" in reducer.needs:
            values["noise"] = torch.rand(tokens.index.shape, device=tokens.x.device)
        kept, dropped, _ = reducer(tokens, plan.num_keep[block], Signals(**values))
        if dropped is not None:
            parked.append(dropped)
        if block not in plan.rectangles or self.window_size is None:
            return kept
        layout = window_major_order(plan.rectangles[block], self.window_size, kept.index.device)
        return take_tokens(kept, kept.index.argsort(dim=1)[:, layout], with_prefix=True)

    def _output(self, tokens: Tokens, parked: list[Tokens], last: bool) -> Tensor:
        norm = self.norm if last else nn.Identity()
        return make_output(tokens, parked, self.out_type, norm, self.arch.norm_after_pool)

    def _plan(self, grid: tuple[int, int]) -> Plan:
        return make_plan(
            self.schedule,
            grid=grid,
            num_prefix=self.num_prefix,
            windowed=tuple(self._is_windowed(i) for i in range(self.depth)),
            window_size=self.window_size,
            survivor_order=self.survivor_order,
            before=any(reducer.site == "before" for reducer in self.reducers.values()),
            # Every fusion has the same steps, so that one can be swapped for another.
            last_site=self.depth - (2 if self.fusion is None else 3),
            fused=self.last_block_sees_all,
            progress=self.progress,
            num_fused=self.num_fused,
        )

    def _is_windowed(self, block: int) -> bool:
        return self.window_size is not None and block not in self.global_block_indexes

    def _rel_pos_extent(self, block: int) -> tuple[int, int]:
        return to_2tuple(self.window_size) if self._is_windowed(block) else self.grid

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
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
