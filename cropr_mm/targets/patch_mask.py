"""Masks and presence of classes among the cells of a grid.

B images, n cells, K classes.
"""

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.patch_label import PatchLabelTarget


@TASK_UTILS.register_module()
class PatchMaskTarget(PatchLabelTarget):
    """Which cells are of a class, and whether any is: for ``DToP(head='mask')``.

    Labels of cells are those of :class:`PatchLabelTarget`. The loss is the weighted sum of

    - presence: binary cross-entropy over images and classes, absent ones at 0.1 of the weight;
    - masks: focal loss (alpha 0.25, gamma 2), mean over the cells of an image;
    - dice: 1 - (2 |mask and label| + 1) / (|mask| + |label| + 1);

    where the last two count for classes that are present, mean over these in all images.

    Args:
        num_classes: Classes of the segmenter.
        grid: Rows and columns of patches, or one number for both.
        ignore_index: Label of pixels without a class, padding among them.
        presence_weight: Weight of the first term.
        mask_weight: Of the second.
        dice_weight: Of the third.

    Raises:
        ValueError: If a weight is negative, or as :class:`PatchLabelTarget`.

    Source: Tang et al., Dynamic token pruning (arXiv 2308.01045), and their code,
    mmseg_custom/loss/{atm_loss,criterion}.py. There masks are upsampled to pixels, those of tokens
    that exited before included, and pixels without a class are background; here a step learns the
    cells of the tokens alive there, and cells without a class do not count. Classes are counted per
    process, not over all of them.
    """

    tasks = frozenset({"exit_mask"})

    def __init__(
        self,
        num_classes: int,
        grid: int | tuple[int, int],
        ignore_index: int = 255,
        presence_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
    ) -> None:
        super().__init__(num_classes, grid, ignore_index)
        self.weights = (presence_weight, mask_weight, dice_weight)
        if min(self.weights) < 0:
            raise ValueError(f"expected weights >= 0, got {self.weights}")

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of one head in float32.

        Args:
            logits: Mask logits of n cells and, behind them, those of presence, (B, n + 1, K).
            target: Labels of the cells, (B, n).
        """
        batch, cells = target.shape
        if logits.shape != (batch, cells + 1, self.num_classes):
            raise ValueError(
                f"PatchMaskTarget expects logits of shape {(batch, cells + 1, self.num_classes)} "
                f"(images, cells and presence, classes), got {tuple(logits.shape)}"
            )
        masks, presence = logits[:, :-1].float(), logits[:, -1].float()
        counts = (target != self.ignore_index).unsqueeze(-1)  # (B, n, 1)
        labels = F.one_hot(target.masked_fill(~counts[..., 0], 0), self.num_classes) * counts
        labels = labels.float()  # (B, n, K)
        present = labels.amax(dim=1)  # (B, K)
        number = present.sum().clamp(min=1)

        weight = 0.1 + 0.9 * present
        entropy = F.binary_cross_entropy_with_logits(presence, present, weight, reduction="sum")
        focal = sigmoid_focal_loss(masks, labels, alpha=0.25, gamma=2.0) * counts
        focal = focal.sum(dim=1) / counts.sum(dim=1).clamp(min=1)  # (B, K)
        share = masks.sigmoid() * counts
        overlap = 2 * (share * labels).sum(dim=1) + 1
        dice = 1 - overlap / (share.sum(dim=1) + labels.sum(dim=1) + 1)
        terms = (
            entropy / weight.sum(),
            (focal * present).sum() / number,
            (dice * present).sum() / number,
        )
        return sum(
            (w * term for w, term in zip(self.weights, terms, strict=True)), masks.new_zeros(())
        )
