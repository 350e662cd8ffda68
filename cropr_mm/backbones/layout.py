"""Where the tokens of one forward pass lie, and how much each one counts in attention."""

from typing import NamedTuple

from cropr_mm.backbones.mask_queries import MaskPredictions
from cropr_mm.layers.attention import Geometry
from cropr_mm.layers.positions import GridTables, Positions
from cropr_mm.layers.weights import weigh_tokens
from cropr_mm.structures import Tokens


class Layout(NamedTuple):
    """Where the tokens of one forward pass lie.

    Attributes:
        tables: Tables of the grid.
        geometries: Of the tokens that are alive, by whether attention works in windows; filled when
            a block asks.
        predictions: What mask queries predicted so far; filled where they do.
    """

    tables: GridTables
    geometries: dict[bool, Geometry]
    predictions: MaskPredictions


def token_geometry(
    positions: Positions, tables: GridTables, tokens: Tokens, windowed: bool, proportional: bool
) -> Geometry:
    """Compute the geometry of live tokens for one kind of block.

    Args:
        positions: Says where tokens lie.
        tables: Tables of their grid.
        tokens: Live tokens.
        windowed: Window or global attention.
        proportional: Whether attention counts a merged token as the cells behind it.
    """
    geometry = positions.geometry(tokens, tables, windowed)
    by_size = proportional and tokens.size is not None
    if tokens.policy is not None or by_size:
        geometry = weigh_tokens(geometry, tokens, by_size)
    return geometry
