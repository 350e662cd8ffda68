"""Position tables of a grid and the geometry of the tokens that are alive.

N cells of an h x w grid, s the side of a window, d channels of a head. Everything positional is a
table that is looked up by token index; nothing of it is in a checkpoint.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.layers.arch import Arch
from cropr_mm.layers.attention import Geometry, Relative
from cropr_mm.ops.rope import Rope, RopeSpec, rope_table
from cropr_mm.ops.window import window_grid, window_major_order, window_slots
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import take_entries


class GridTables(NamedTuple):
    """Tables of one grid.

    Attributes:
        order: Raster ids in token order (window-major where there are windows), shape (N,), int64.
        slots: Slot of each cell in the filled-up window layout, by raster id, shape (N,), int64;
            its raster id where there are no windows.
        rope: Rotation in global blocks, by raster id, N rows, and a last one that rotates nothing,
            for index -1: prefix tokens and those that belong to no cell.
        window_rope: Rotation in window blocks, one row per slot of the layout.
    """

    order: Tensor
    slots: Tensor
    rope: Rope | None
    window_rope: Rope | None


class Positions(nn.Module):
    """Answers where tokens lie, for whole and for pruned grids of any size.

    Tables of the native grid are made once and kept as buffers outside the state dict; those of
    other grids are computed when such an image comes.

    Args:
        arch: Head width and kind of RoPE.
        grid: Native grid (h, w), in patches.
        num_prefix: Prefix tokens, which are not rotated.
        window_size: s, in patches, or None.
        window_rope: 'origin': tokens keep their own coordinates, at the scale of a window; 'slot':
            a token takes the coordinates of its place in the window.
        rel_pos: Whether attention adds a relative position bias (windows always use slots for it).
    """

    def __init__(
        self,
        arch: Arch,
        grid: tuple[int, int],
        num_prefix: int,
        window_size: int | None,
        window_rope: str,
        rel_pos: bool,
    ) -> None:
        super().__init__()
        self.head_dim = arch.head_dim
        self.spec = None
        if arch.rope is not None:
            self.spec = RopeSpec(arch.rope, arch.rope_temperature, arch.rope_ref_grid)
        self.grid = grid
        self.num_prefix = num_prefix
        self.window_size = window_size
        self.window_rope = window_rope
        self.rel_pos = rel_pos
        for name, table in self._flatten(self._compute(grid, None)).items():
            self.register_buffer(name, table, persistent=False)

    def tables(self, grid: tuple[int, int], device: torch.device) -> GridTables:
        """Tables of a grid, on the given device."""
        if grid != self.grid:
            order, slots, *ropes = self._compute(grid, device)
            return GridTables(order, slots, *(self._as_stored(rope) for rope in ropes))
        rope = window_rope = None
        if self.spec is not None:
            rope = Rope(self.rope_cos, self.rope_sin)
            if self.window_size is not None:
                window_rope = Rope(self.window_rope_cos, self.window_rope_sin)
        return GridTables(self.order, self.slots, rope, window_rope)

    def _as_stored(self, rope: Rope | None) -> Rope | None:
        """In the precision of the native tables; wider ones would widen queries and keys."""
        return rope and Rope(*(table.to(self.rope_cos.dtype) for table in rope))

    def geometry(self, tokens: Tokens, tables: GridTables, windowed: bool) -> Geometry:
        """Geometry for one kind of block.

        Args:
            tokens: Live tokens.
            tables: Tables of their grid.
            windowed: Window or global attention.
        """
        # With no cell missing, the tokens are in the order of the tables, the same for every image.
        pruned = tokens.index.shape[1] < tables.order.shape[0]
        if windowed:
            assert self.window_size is not None
            return self._window_geometry(tokens, tables, self.window_size, pruned)
        ids = tokens.index if pruned else tables.order[None]
        rope = relative = None
        if pruned and tokens.position is not None and self.spec is not None:
            rope = self._turned(tokens.position, tokens.grid, self.spec)
        elif tables.rope is not None:
            rope = _rows(tables.rope, F.pad(ids, (tokens.num_prefix, 0), value=-1))
        if self.rel_pos:
            columns = tokens.grid[1]
            relative = Relative((ids // columns, ids % columns), tokens.grid)
        return Geometry(rope=rope, relative=relative)

    def _turned(self, position: Tensor, grid: tuple[int, int], spec: RopeSpec) -> Rope:
        """Rotation in global blocks of tokens at rows and columns (B, N, 2), behind the prefix."""
        y, x = position.flatten(0, 1).unbind(dim=1)  # (B * N,)
        span = (float(grid[0]), float(grid[1]))
        flat = rope_table(y, x, span, self.head_dim, spec)
        shape, front = (position.shape[0], position.shape[1], -1), (0, 0, self.num_prefix, 0)
        cos = F.pad(flat.cos.view(shape), front, value=1.0)
        return Rope(
            cos.to(self.rope_cos.dtype),
            F.pad(flat.sin.view(shape), front).to(self.rope_cos.dtype),
        )

    def _window_geometry(
        self, tokens: Tokens, tables: GridTables, side: int, pruned: bool
    ) -> Geometry:
        windows = window_grid(tokens.grid, side)
        num_slots = windows[0] * windows[1] * side**2
        length = tokens.index.shape[1] if pruned else num_slots
        rope = relative = None
        if tables.window_rope is not None and self.window_rope == "slot":
            repeats = length // side**2
            rope = Rope(*(t.repeat(repeats, 1)[None] for t in tables.window_rope))
        elif tables.window_rope is not None:
            rope = Rope(*(t[None] for t in tables.window_rope))
            if pruned:
                rope = _rows(tables.window_rope, take_entries(tables.slots, tokens.index))
        if self.rel_pos:
            place = torch.arange(side**2, device=tokens.x.device)[None]
            relative = Relative((place // side, place % side), (side, side))
        prefix = tokens.num_prefix
        if rope is not None and prefix:  # not rotated
            rope = Rope(
                F.pad(rope.cos, (0, 0, prefix, 0), value=1.0), F.pad(rope.sin, (0, 0, prefix, 0))
            )
        slots = None
        if not pruned and num_slots != tokens.index.shape[1]:
            slots = tables.slots.index_select(0, tables.order) + prefix
            slots = torch.cat([torch.arange(prefix, device=slots.device), slots])
        return Geometry(
            window_tokens=side**2,
            rope=rope,
            relative=relative,
            slots=slots,
            num_slots=prefix + num_slots,
            num_prefix=prefix,
        )

    def _compute(self, grid: tuple[int, int], device: torch.device | None) -> GridTables:
        raster = torch.arange(grid[0] * grid[1], device=device)
        rope = window_rope = None
        slots, order = raster, raster.clone()  # one buffer under two names cannot be traced
        if self.spec is not None:
            span = (float(grid[0]), float(grid[1]))
            y, x = raster // grid[1], raster % grid[1]
            rope = rope_table(y, x, span, self.head_dim, self.spec)
            rope = Rope(F.pad(rope.cos, (0, 0, 0, 1), value=1.0), F.pad(rope.sin, (0, 0, 0, 1)))
        if self.window_size is not None:
            slots = window_slots(grid, self.window_size, device)
            order = window_major_order(grid, self.window_size, device)
            if self.spec is not None:
                window_rope = self._window_table(grid, self.window_size, self.spec, raster.device)
        return GridTables(order, slots, rope, window_rope)

    def _window_table(
        self, grid: tuple[int, int], side: int, spec: RopeSpec, device: torch.device
    ) -> Rope:
        place = torch.arange(side**2, device=device)
        y, x = place // side, place % side
        if self.window_rope == "origin":
            rows, columns = window_grid(grid, side)
            window = torch.arange(rows * columns, device=device)[:, None]
            y = ((window // columns) * side + y).flatten()
            x = ((window % columns) * side + x).flatten()
        return rope_table(y, x, (float(side), float(side)), self.head_dim, spec)

    @staticmethod
    def _flatten(tables: GridTables) -> dict[str, Tensor]:
        named = {"order": tables.order, "slots": tables.slots}
        for name, rope in (("rope", tables.rope), ("window_rope", tables.window_rope)):
            if rope is not None:
                named |= {f"{name}_cos": rope.cos, f"{name}_sin": rope.sin}
        return named


def _rows(rope: Rope, index: Tensor) -> Rope:
    """Rows of a table by token, shape (1 or B, N, d); the last row for index -1."""
    place = torch.where(index < 0, rope.cos.shape[0] - 1, index)
    return Rope(take_entries(rope.cos, place), take_entries(rope.sin, place))
