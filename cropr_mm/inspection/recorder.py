"""Which token left at which block, and which ones were merged.

B batch, N live patches, h x w patch grid.
"""

from functools import partial

import torch
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.find import find_backbones
from cropr_mm.reducers import MergingReducer
from cropr_mm.structures import Reduction, Tokens


class PruningRecorder:
    """Watches the reducers of a backbone and notes which one dropped each patch.

    A patch that was merged has not left: it goes on as part of a token.

    Use it as a context manager around forward passes; it tells about the last one.
    """

    def __init__(self, backbone: ReducingBackbone) -> None:
        self.backbone = backbone
        self.left_after: Tensor | None = None
        self._clusters: Tensor | None = None
        self._handles: list = []

    def __enter__(self) -> "PruningRecorder":
        self._handles.append(self.backbone.register_forward_pre_hook(self._forget))
        for block, reducer in self.backbone.reducers.items():
            handle = reducer.register_forward_hook(partial(self._note, int(block)))
            self._handles.append(handle)
        return self

    def __exit__(self, *_: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def maps(self) -> Tensor:
        """Block (0-based) whose reducer dropped each patch, -1 where it stayed, on the CPU.

        Returns:
            Shape (B, h, w), int64.

        Raises:
            ValueError: If no reducer ran in the last forward pass.
        """
        if self.left_after is None:
            raise ValueError("expected a backbone whose reducers ran, got none that did")
        return self.left_after.cpu()

    def clusters(self) -> Tensor | None:
        """Token that each patch is part of after the last step, -1 where it left, on the CPU.

        Returns:
            Shape (B, h, w), int64; None where nothing was merged.
        """
        if self._clusters is None or self.left_after is None:
            return None
        return self._clusters.view_as(self.left_after).cpu()

    def _forget(self, *_: object) -> None:
        self.left_after = self._clusters = None

    def _note(self, block: int, _: nn.Module, inputs: tuple, output: Reduction) -> None:
        kept = output.kept
        if self.left_after is None:  # the first reducer of this forward pass
            self.left_after = torch.full(
                (kept.index.shape[0], *kept.grid), -1, device=kept.index.device
            )
        self._clusters = kept.source
        alive = _live_cells(kept) if kept.source is None else kept.source >= 0
        leaving = ~alive.view_as(self.left_after) & (self.left_after < 0)
        self.left_after = torch.where(leaving, block, self.left_after)


def _live_cells(kept: Tokens) -> Tensor:
    """Cells of the grid that have a live token of their own, shape (B, h * w), bool."""
    shape = (kept.index.shape[0], kept.grid[0] * kept.grid[1])
    count = torch.zeros(shape, dtype=torch.int64, device=kept.index.device)
    live = kept.index >= 0 if kept.policy is None else (kept.index >= 0) & kept.policy
    return count.scatter_add_(1, kept.index.clamp(min=0), live.long()) > 0


class StepRecorder:
    """Records from one call of a hook to a later one, where no ``with`` block can stand.

    Attributes:
        recorder: What is recording now, None between the steps.
    """

    def __init__(self) -> None:
        self.recorder: PruningRecorder | None = None

    def start(self, model: nn.Module) -> None:
        """Record the pruned backbone of a model from here on.

        Raises:
            ValueError: If it has none.
        """
        self.stop()  # a step that failed never came to its own stop
        self.recorder = PruningRecorder(pruned_backbone(model)).__enter__()

    def stop(self) -> PruningRecorder | None:
        """Leave the model as it was; what was recorded since the start, None if not started."""
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.__exit__()
        return recorder


def pruned_backbone(model: nn.Module) -> ReducingBackbone:
    """The first backbone of a model that prunes.

    Raises:
        ValueError: If there is none.
    """
    for backbone in find_backbones(model).values():
        if len(backbone.reducers):
            return backbone
    raise ValueError(f"expected a model with a pruned backbone, got {type(model).__name__} without")


def check_drops(backbone: ReducingBackbone, what: str) -> None:
    """Refuse a backbone that merges tokens where only tokens that leave mean something.

    Args:
        backbone: Encoder.
        what: Who asks, for the message.

    Raises:
        ValueError: If one of its reducers merges.
    """
    for block, reducer in backbone.reducers.items():
        if isinstance(reducer, MergingReducer):
            raise ValueError(
                f"{what} expects a method that drops tokens, got {type(reducer).__name__} at "
                f"block {int(block) + 1}: it merges them, so no patch leaves"
            )
