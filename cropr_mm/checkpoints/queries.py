"""Queries of Cropr modules brought to the grid of another model.

M queries of a grid of rows x columns in raster order, C channels.
"""

from collections.abc import Iterable, Mapping
from math import isqrt

from mmengine.logging import print_log
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.reducers.cropr import Cropr


def fit_queries(
    weights: Mapping[str, Tensor], backbone: nn.Module, source_grid: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Resample queries bicubically where a backbone has another grid of them.

    Args:
        weights: Weights of the backbone by name; not changed. Queries have shape (1, M, C).
        backbone: A ``CroprViT``; read, not changed.
        source_grid: Rows and columns of the queries in ``weights``. Default: square where their
            number differs from the backbone's.

    Returns:
        All weights, with queries of the backbone's grid. What was changed is logged.

    Raises:
        CheckpointError: If numbers of queries differ and one side has no grid.
    """
    fitted = dict(weights)
    changed = set()
    for block, reducer in backbone.reducers.items():
        name = f"reducers.{block}.queries"
        target = dict(reducer.named_parameters(recurse=False)).get("queries")
        if target is None or name not in weights:
            continue
        queries, grid = weights[name], reducer.query_grid
        old = _grid(queries, source_grid, target)
        if grid is None or old is None:
            if queries.shape[1] != target.shape[1]:
                raise CheckpointError(
                    f"{name}: expected {target.shape[1]} queries, got {queries.shape[1]}; only "
                    "those of a grid, num_queries=(rows, columns), are resampled"
                )
        elif old != grid:
            fitted[name] = resample_abs_pos_embed(
                queries, new_size=list(grid), old_size=list(old), num_prefix_tokens=0
            )
            changed.add((old, grid))
    for old, grid in sorted(changed):
        print_log(
            f"resampled reducers.*.queries: {old[0]}x{old[1]} to {grid[0]}x{grid[1]}",
            logger="current",
        )
    return fitted


def collapse_queries(weights: dict[str, Tensor], model: nn.Module) -> None:
    """Bring weights of training to the form of the deployed Cropr modules in a model, in place."""
    for name, module in model.named_modules():
        if isinstance(module, Cropr) and module.deploy and f"{name}.queries" in weights:
            module.collapse_weights(weights, f"{name}.")


def _grid(
    queries: Tensor, source_grid: tuple[int, int] | None, target: Tensor
) -> tuple[int, int] | None:
    """Rows and columns of queries, None for those that have none or are taken as they are."""
    count = queries.shape[1]
    if source_grid is not None and source_grid[0] * source_grid[1] == count:
        return source_grid
    side = isqrt(count)
    if count == target.shape[1] or side**2 != count or side == 1:
        return None
    return side, side


def has_deployed_query(names: Iterable[str]) -> bool:
    """Whether weights by these names are of a deployed model: a reducer has one vector there."""
    return any(name.endswith(".query") and ".reducers." in f".{name}" for name in names)
