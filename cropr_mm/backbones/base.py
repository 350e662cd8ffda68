"""What hooks and tools know of every backbone that reduces tokens."""

from typing import Any

from mmengine.model import BaseModule
from torch import nn

from cropr_mm.backbones.checks import check_discs
from cropr_mm.registry import MODELS
from cropr_mm.schedules import Schedule


class ReducingBackbone(BaseModule):
    """A backbone with reducers at some of its blocks.

    Attributes:
        depth: Blocks that a schedule counts.
        embed_dim: Channels of the tokens there.
        grid: Rows and columns of tokens at the native image size.
        patch_size: Side of a token's cell in the image, in pixels.
        num_prefix: Prefix tokens.
        progress: Share of the full reduction in force, in [0, 1]; written by a curriculum.
        schedule: Counts of tokens; None where nothing is reduced.
        reducers: By block (0-based, as text); empty where nothing is reduced.
    """

    depth: int
    embed_dim: int
    grid: tuple[int, int]
    patch_size: int
    num_prefix = 0
    progress: float
    schedule: Schedule | None
    reducers: nn.ModuleDict

    @property
    def last_block_sees_all(self) -> bool:
        """Whether dropped tokens come back before the last block."""
        return False

    def num_keep(self, grid: tuple[int, int] | None = None) -> dict[int, int]:
        """Patch tokens kept at each reducing block, for a grid or the native one."""
        raise NotImplementedError

    def tokens_per_block(self, grid: tuple[int, int] | None = None) -> list[int]:
        """Tokens that the attention of each block sees, prefix included."""
        grid = self.grid if grid is None else grid
        keep = self.num_keep(grid)
        total = alive = grid[0] * grid[1]
        counts = []
        for i in range(self.depth):
            before = i in keep and self.reducers[str(i)].site == "before"
            if before:
                alive = keep[i]
            if self.last_block_sees_all and i == self.depth - 1:
                alive = total
            counts.append(alive + self.num_prefix)
            if i in keep and not before:
                alive = keep[i]
        return counts

    def make_reducers(self, cfg: dict[str, Any]) -> nn.ModuleDict:
        """One reducer per block of the schedule, by the block's number as text.

        Raises:
            ValueError: If the schedule is not one of the method's.
        """
        reducers = nn.ModuleDict()
        for block, count in self.num_keep().items():
            given = {"embed_dim": self.embed_dim}
            if getattr(MODELS.get(cfg["type"]), "fixed_slots", False):
                given["num_slots"] = count
            reducers[str(block)] = MODELS.build({**cfg, **given})
            check_discs(reducers[str(block)], self.schedule)
        return reducers

    def switch_to_deploy(self) -> None:
        """Strip every reducer to what inference needs."""
        for reducer in self.reducers.values():
            reducer.switch_to_deploy()
