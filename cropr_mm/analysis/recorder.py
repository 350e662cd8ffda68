"""Which token left at which block.

B batch, N live patches, h x w patch grid.
"""

from functools import partial

import torch
from torch import Tensor, nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.lookup import find_backbones
from cropr_mm.structures import Reduction


class PruningRecorder:
    """Watches the reducers of a backbone and notes which one dropped each patch.

    Use it as a context manager around one forward pass.
    """

    def __init__(self, backbone: CroprViT) -> None:
        self.backbone = backbone
        self.left_after: Tensor | None = None
        self._handles: list = []

    def __enter__(self) -> "PruningRecorder":
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
            ValueError: If no reducer ran.
        """
        if self.left_after is None:
            raise ValueError("expected a backbone whose reducers ran, got none that did")
        return self.left_after.cpu()

    def _note(self, block: int, _: nn.Module, inputs: tuple, output: Reduction) -> None:
        kept = output.kept
        if self.left_after is None or block <= int(self.left_after.max()):  # a new forward pass
            self.left_after = torch.full(
                (kept.index.shape[0], *kept.grid), -1, device=kept.index.device
            )
        shape = (kept.index.shape[0], kept.grid[0] * kept.grid[1])
        alive = torch.zeros(shape, dtype=torch.int64, device=kept.index.device)
        live = kept.index >= 0 if kept.policy is None else (kept.index >= 0) & kept.policy
        alive.scatter_add_(1, kept.index.clamp(min=0), live.long())
        leaving = (alive.view_as(self.left_after) == 0) & (self.left_after < 0)
        self.left_after = torch.where(leaving, block, self.left_after)


def pruned_backbone(model: nn.Module) -> CroprViT:
    """The first backbone of a model that prunes.

    Raises:
        ValueError: If there is none.
    """
    for backbone in find_backbones(model).values():
        if len(backbone.reducers):
            return backbone
    raise ValueError(f"expected a model with a pruned CroprViT, got {type(model).__name__} without")
