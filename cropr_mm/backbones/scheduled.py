"""What a backbone reduces and where: schedule, reducers and fusion, and the plan they make."""

import copy
from typing import Any, TypeVar

import torch
import torch._dynamo
from mmengine.model import BaseModule
from torch import nn

from cropr_mm.backbones.checks import check_discs, check_reducer, check_reduction, check_served
from cropr_mm.backbones.plan import Plan, make_plan
from cropr_mm.backbones.signals import IMAGE_SIGNALS
from cropr_mm.fusion import Fusion
from cropr_mm.reducers import TokenReducer
from cropr_mm.registry import MODELS, TASK_UTILS
from cropr_mm.schedules import Schedule, ScheduleSettings

Backbone = TypeVar("Backbone", bound="ScheduledBackbone")


class ScheduledBackbone(BaseModule):
    """A backbone that knows at which of its blocks it reduces tokens, and to how many.

    Attributes:
        depth: Blocks that a schedule counts.
        embed_dim: Channels of the tokens there.
        num_heads: Attention heads; read by fusions that have parameters.
        grid: Rows and columns of tokens at the native image size.
        patch_size: Side of a token's cell in the image, in pixels.
        num_prefix: Prefix tokens.
        has_cls: Whether the first prefix token is a class token.
        blocks: The blocks themselves; read by tools that watch or count them.
        num_query_blocks: Last blocks that mask queries go through; 0 where there are none.
        out_channels: Channels of each output; empty if a backbone does not say.
        out_type: Shape of the outputs: 'featmap' for maps (B, C, h, w).
        is_pyramid: Whether blocks and outputs lie on several grids.
        window_size: Side of attention windows, in patches; None for global attention only.
        survivor_order: How survivors form windows: 'window' or 'raster'.
        signals: Fields of :class:`cropr_mm.structures.Signals` that the backbone can fill.
        serves_synthetic: Whether attention works with tokens that belong to no cell (index -1).
        serves_masks: Whether attention and MLP heed ``Tokens.policy``.
        serves_exits: Whether the backbone returns the logits of tokens that exit.
        progress: Share of the full reduction in force, in [0, 1]; written by a curriculum.
        schedule: Says how many tokens each step leaves; None where nothing is reduced.
        fusion: Brings dropped tokens back; None where only the output does.
        pad_first: Whether pruners drop patches that are padding first.
        reducers: By block (0-based, as text); empty where nothing is reduced.
        num_fused: Tokens of no cell that each step adds.
        num_exit_classes: Logits that a dropped token leaves with; 0 for none.

    Args:
        init_cfg: Initialization, as in mmengine.
    """

    depth: int
    embed_dim: int
    num_heads: int
    grid: tuple[int, int]
    patch_size: int
    num_prefix = 0
    has_cls = False
    blocks: nn.ModuleList
    num_query_blocks = 0
    out_channels: tuple[int, ...] = ()
    out_type = "featmap"
    is_pyramid = False
    window_size: int | None = None
    survivor_order = "window"
    signals: frozenset[str] = IMAGE_SIGNALS
    serves_synthetic = False
    serves_masks = False
    serves_exits = False
    reducers: nn.ModuleDict

    def __init__(self, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.progress = 1.0
        self.schedule: Schedule | None = None
        self.fusion: Fusion | None = None
        self.pad_first = False
        self.num_fused = 0
        self.num_exit_classes = 0
        self._plans: dict[tuple, tuple[Schedule, Plan]] = {}

    def build_schedule(
        self,
        reducer: dict[str, Any] | None,
        schedule: dict[str, Any] | None,
        fusion: dict[str, Any] | None = None,
        pad_first: bool = False,
    ) -> None:
        """Build schedule and fusion, before the reducers.

        Args:
            reducer: Config of the reducer, or None for the dense model; only checked.
            schedule: Config of the schedule, or None for the dense model.
            fusion: Config of the fusion, or None for none.
            pad_first: Whether pruners drop patches that are padding first.

        Raises:
            ValueError: If reducer, schedule, fusion and ``pad_first`` do not go together.
        """
        check_reduction(reducer, schedule, fusion, pad_first)
        self.pad_first = pad_first
        if schedule is not None:
            self.schedule = TASK_UTILS.build(schedule)
        if fusion is not None:
            given: dict[str, Any] = {}
            if getattr(MODELS.get(fusion["type"]), "learned", False):
                given = dict(embed_dim=self.embed_dim, num_heads=self.num_heads, grid=self.grid)
            self.fusion = MODELS.build({**fusion, **given})

    def build_reducers(self, cfg: dict[str, Any] | None, deploy: bool = False) -> None:
        """Build one reducer for each block of the schedule.

        Args:
            cfg: Config of the reducer, or None for the dense model.
            deploy: Build the stripped form for inference.

        Raises:
            ValueError: If the method cannot work in this backbone, with this schedule or this
                fusion, or cannot leave so few tokens.
        """
        self.reducers = nn.ModuleDict() if cfg is None else self._make_reducers(cfg)
        for reducer in self.reducers.values():
            self.num_fused = max(self.num_fused, reducer.num_fused)
            self.num_exit_classes = reducer.num_exit_classes
            check_discs(reducer, self.schedule)
            self.check_reducer(reducer)
        self._plans.clear()  # now that the method is known
        if self.fusion is not None:
            self.fusion.build_steps([int(block) for block in self.reducers], self.embed_dim)
        left = self.grid[0] * self.grid[1]
        for block, count in self.num_keep().items():
            self.reducers[str(block)].check_count(left, self.num_prefix, count)
            left = count
        if deploy:
            self.switch_to_deploy()

    def _make_reducers(self, cfg: dict[str, Any]) -> nn.ModuleDict:
        self.reducers = nn.ModuleDict()
        reducers = nn.ModuleDict()
        for block, count in self.num_keep().items():
            given = {"embed_dim": self.embed_dim}
            if getattr(MODELS.get(cfg["type"]), "fixed_slots", False):
                given["num_slots"] = count
            reducers[str(block)] = MODELS.build({**cfg, **given})
        return reducers

    def check_reducer(self, reducer: TokenReducer) -> None:
        """Raise ValueError for a reducer that cannot work in this backbone."""
        check_served(
            reducer,
            type(self).__name__,
            self.signals,
            synthetic=self.serves_synthetic,
            masks=self.serves_masks,
            exits=self.serves_exits,
        )
        check_reducer(
            reducer,
            has_cls=True,  # a backbone without one does not name its signals
            fused=self.fusion is not None,
            windows=self.window_size is not None,
            rel_pos=False,
            pad_first=self.pad_first,
        )

    @property
    def num_restored(self) -> int:
        """Last blocks that see all tokens again; 0 where none come back before the last block."""
        if self.fusion is None or self.fusion.site != "before":
            return 0
        return self.fusion.num_blocks

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width of the images that the backbone is made for, in pixels."""
        return self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    def patch_grid(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens for an image (height, width) in pixels."""
        return -(-img_size[0] // self.patch_size), -(-img_size[1] // self.patch_size)

    def is_windowed(self, block: int) -> bool:
        """Whether the attention of a block (0-based) works in windows."""
        return False

    def schedule_settings(self, grid: tuple[int, int]) -> ScheduleSettings:
        """What the schedule is asked about, for a grid and the present progress."""
        return ScheduleSettings(
            num_patches=grid[0] * grid[1],
            num_prefix=self.num_prefix,
            depth=self.depth,
            window_size=self.window_size,
            # Every fusion has the same steps, so that one can be swapped for another.
            last_site=self.depth - 2 - (0 if self.fusion is None else self.fusion.num_blocks),
            progress=self.progress,
            num_fused=self.num_fused,
        )

    def plan(self, grid: tuple[int, int] | None = None) -> Plan:
        """Plan of the reduction for a grid or the native one, at the present progress.

        Plans are kept by grid and progress. They follow another ``schedule``; all else that they
        depend on is fixed by the constructor.

        Raises:
            ValueError: If the schedule does not fit the grid, or survivors do not fill whole
                windows.
        """
        grid = self.grid if grid is None else grid
        if self.schedule is None:
            return Plan({}, (grid[0] * grid[1],) * self.depth, {})
        if torch._dynamo.is_compiling():  # the plan becomes part of the graph
            return self._make_plan(self.schedule, grid)
        key = (grid, self.progress)
        known = self._plans.get(key)
        if known is None or known[0] is not self.schedule:
            known = self._plans[key] = (self.schedule, self._make_plan(self.schedule, grid))
        return known[1]

    def _make_plan(self, schedule: Schedule, grid: tuple[int, int]) -> Plan:
        return make_plan(
            schedule(self.schedule_settings(grid)),
            grid,
            before=any(reducer.site == "before" for reducer in self.reducers.values()),
            num_restored=self.num_restored,
            windowed=[self.is_windowed(i) for i in range(self.depth)],
            window_size=self.window_size,
            survivor_order=self.survivor_order,
        )

    def num_keep(self, grid: tuple[int, int] | None = None) -> dict[int, int]:
        """Patch tokens kept at each reducing block, for a grid or the native one."""
        return self.plan(grid).num_keep

    def tokens_per_block(self, grid: tuple[int, int] | None = None) -> list[int]:
        """Tokens that the attention of each block sees, prefix included."""
        return [count + self.prefix_at(i) for i, count in enumerate(self.plan(grid).live)]

    def prefix_at(self, block: int) -> int:
        """Tokens in front of the patches that a block (0-based) sees."""
        return self.num_prefix

    def unpruned(self: Backbone) -> Backbone:
        """Dense twin that shares every parameter and reduces nothing."""
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        twin.reducers = nn.ModuleDict()
        twin.schedule = twin.fusion = None
        return twin

    def switch_to_deploy(self) -> None:
        """Strip every reducer to what inference needs."""
        for reducer in self.reducers.values():
            reducer.switch_to_deploy()
