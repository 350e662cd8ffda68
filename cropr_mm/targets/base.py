"""Contract of an auxiliary target."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

_TARGETS_OF_TASK = {
    "cropr": "MultiLabelTarget, PatchLabelTarget, GridMultiLabelTarget or ClassTarget",
    "exit": "PatchLabelTarget",
    "exit_mask": "PatchMaskTarget",
    "keep": "KeepRatioTarget",
}


class AuxiliaryTarget(ABC):
    """What auxiliary modules learn: encoded once per batch, compared with each module's output.

    Attributes:
        tasks: Values of ``task`` of the auxiliary modules that can learn it.
        grid: Rows and columns of a target for each cell of a grid, or None.
        averaged: Whether the losses of several modules are averaged instead of added up.
    """

    tasks: frozenset[str] = frozenset()
    grid: tuple[int, int] | None = None
    averaged = False

    @abstractmethod
    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Turn the data samples of one batch into the target that all modules share.

        Args:
            data_samples: One data sample of the host library per image, B of them.
            device: Where the logits are.

        Returns:
            Target with batch size B, in the form that ``loss`` takes. That of a grid has its cells
            in the second dimension, so that it can be taken apart by cell.

        Raises:
            ValueError: If a sample lacks the annotation, or a label is not a class.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of one auxiliary head.

        Args:
            logits: Shape (B, num_classes), or (B, M, num_classes) for M queries; any float dtype.
            target: What ``encode`` returned, maybe at some cells only, as are the logits.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: If logits and target do not belong together.
        """

    def check(self, name: str, reducer: nn.Module) -> None:
        """Whether a reducer's auxiliary module and this target belong together.

        Args:
            name: What errors call the module.
            reducer: Reducer with a child ``auxiliary``.

        Raises:
            ValueError: If they do not.
        """
        task = reducer.auxiliary.task
        if task not in self.tasks:
            expected = _TARGETS_OF_TASK.get(task, f"a target with {task!r} in its tasks")
            raise ValueError(
                f"{name} of {type(reducer).__name__} cannot learn {type(self).__name__} of "
                f"CroprAuxLossHook: expected {expected}"
            )

    def check_dataset(self, dataset: Any) -> None:
        """Raise a ValueError if the training data do not fit; by default nothing is compared."""
        return


def classes_of(dataset: Any) -> Sequence[str] | None:
    """Names of the classes in a data set's ``metainfo``, or None if it has none."""
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    return classes if isinstance(classes, list | tuple) else None


class LabelTarget(AuxiliaryTarget):
    """Target of classes.

    Args:
        num_classes: Classes that the auxiliary heads predict, at least 1.
        grid: Rows and columns of a dense target, or one number for both; None for one target per
            image.

    Attributes:
        grid: Rows and columns, or None.
        num_queries: Queries that each Cropr module must have: 1, or one per cell of the grid.

    Raises:
        ValueError: If ``num_classes`` or the grid are not positive integers.
    """

    tasks = frozenset({"cropr"})

    def __init__(self, num_classes: int, grid: int | tuple[int, int] | None = None) -> None:
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a positive integer, got {num_classes!r}")
        self.num_classes = num_classes
        self.grid = None if grid is None else to_2tuple(grid)
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise ValueError(f"expected a grid of positive rows and columns, got {grid}")
        self.num_queries = 1 if self.grid is None else self.grid[0] * self.grid[1]

    def check(self, name: str, reducer: nn.Module) -> None:
        """As the base class; also classes and queries are as many as the target's."""
        super().check(name, reducer)
        num_classes = reducer.auxiliary.num_classes
        if num_classes != self.num_classes:
            raise ValueError(
                f"the auxiliary head of {name} has num_classes={num_classes}, but "
                f"{type(self).__name__} of CroprAuxLossHook has {self.num_classes}; "
                "both must be the classes of the dataset (backbone.reducer.num_classes and the "
                "hook's target.num_classes)"
            )
        if reducer.auxiliary.task != "cropr":
            return
        count, grid = reducer.num_queries, reducer.query_grid  # the tensor may be a shard
        same_grid = grid is None or self.grid is None or grid == self.grid
        if count != self.num_queries or not same_grid:
            raise ValueError(
                f"the Cropr module of {name} has num_queries={grid or count}, but "
                f"{type(self).__name__} of CroprAuxLossHook needs "
                f"{self.grid or self.num_queries}; set backbone.reducer.num_queries to that"
            )

    def check_dataset(self, dataset: Any) -> None:
        """Compare with the dataset's classes where its ``metainfo`` names them."""
        classes = classes_of(dataset)
        if classes is not None and len(classes) != self.num_classes:
            noun = "class" if len(classes) == 1 else "classes"
            names = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(
                f"{type(self).__name__} of CroprAuxLossHook has num_classes={self.num_classes}, "
                f"but the training dataset has {len(classes)} {noun}: {names}"
            )

    def count(self, target: Tensor) -> Tensor:
        """Over how many cells ``loss`` is a mean, a scalar; by default all that are there.

        Args:
            target: Of a grid, shape (B, M, ...), maybe at some cells only.
        """
        return torch.tensor(target.shape[0] * target.shape[1], device=target.device)

    def check_labels(self, labels: Tensor) -> None:
        """Raise a ValueError that names the labels, of any shape, that are no class."""
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside):
            raise ValueError(
                f"{type(self).__name__}(num_classes={self.num_classes}) expects labels in "
                f"[0, {self.num_classes - 1}], got {sorted(set(outside.tolist()))}"
            )

    def stack_scores(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Scores of classes, ``gt_score`` of each sample, shape (B, num_classes), float32.

        Raises:
            ValueError: If a sample has scores of another number of classes.
        """
        scores = [sample.gt_score for sample in data_samples]
        shapes = {tuple(score.shape) for score in scores}
        if shapes != {(self.num_classes,)}:
            raise ValueError(
                f"{type(self).__name__}(num_classes={self.num_classes}) expects a gt_score of "
                f"{self.num_classes} classes, got shapes {sorted(shapes)}"
            )
        return torch.stack(scores).to(device, torch.float32)
