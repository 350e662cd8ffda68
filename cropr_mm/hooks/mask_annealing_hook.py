"""Masks of attention that mask queries train with and inference does without."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from cropr_mm.backbones.find import find_vits
from cropr_mm.backbones.mask_queries import MaskQueries
from cropr_mm.registry import HOOKS


@HOOKS.register_module()
class MaskAnnealingHook(Hook):
    """Takes the masks of :class:`MaskQueries` away, block after block, during a training.

    The share of masked queries of each block falls from 1 to 0 by a polynomial over ``length`` of
    the training. The first of their blocks begins at ``begin``, the last one ends at ``end``, and
    those between lie at equal distances. The defaults are the published steps for 3, 4 and 5
    blocks: with 4, the blocks fall in the second, third, fourth and fifth sixth of the training.
    The shares are logged as ``masked_share_0`` and so on.

    Args:
        begin: Share of the training at which the first block begins.
        end: Share of the training at which the last block ends.
        length: Share of the training that each block takes.
        power: Exponent of the polynomial, positive.

    Raises:
        ValueError: If shares do not ascend in [0, 1] or ``power`` is not positive; before training,
            if the model has no queries that are masked, or the length of the training is not known.

    Source: Kerssies et al., EoMT (arXiv 2503.19108), mask annealing; steps of its configs.
    """

    def __init__(
        self, begin: float = 1 / 6, end: float = 5 / 6, length: float = 1 / 6, power: float = 0.9
    ) -> None:
        if not 0 <= begin < begin + length <= end <= 1:
            raise ValueError(
                "MaskAnnealingHook expects 0 <= begin < begin + length <= end <= 1, shares of the "
                f"training, got begin={begin:g}, length={length:g}, end={end:g}"
            )
        if not power > 0:
            raise ValueError(
                f"MaskAnnealingHook expects power > 0, with which masks go away, got {power:g}"
            )
        self.begin = begin
        self.end = end
        self.length = length
        self.power = power

    def check(self, model: nn.Module) -> None:
        """Raise ValueError for a model without queries that are masked in training."""
        if not masked_queries(model):
            raise ValueError(
                "MaskAnnealingHook expects a CroprViT with mask_queries of masked_attention=True, "
                f"got {type(model).__name__} without"
            )

    def before_train(self, runner: Runner) -> None:
        """Check model and length of the training."""
        self.check(runner.model)
        if not isinstance(runner.max_iters, int) or runner.max_iters < 1:
            raise ValueError(
                "MaskAnnealingHook takes masks away over a known length of training, and inference "
                f"has none: expected a train loop of a number of iterations, got {runner.max_iters}"
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Set and log the shares."""
        for queries in masked_queries(runner.model):
            shares = self.shares(runner.iter / runner.max_iters, queries.num_blocks)
            queries.set_masked_shares(shares)
            for i, share in enumerate(shares):
                runner.message_hub.update_scalar(f"train/masked_share_{i}", share)

    def shares(self, progress: float, num_blocks: int) -> tuple[float, ...]:
        """Share of masked queries in each block.

        Args:
            progress: Share of the training that is over, in [0, 1].
            num_blocks: Blocks that the queries go through.
        """
        step = (self.end - self.length - self.begin) / max(num_blocks - 1, 1)
        parts = [(progress - self.begin - step * i) / self.length for i in range(num_blocks)]
        return tuple((1 - min(max(part, 0.0), 1.0)) ** self.power for part in parts)


def masked_queries(model: nn.Module) -> list[MaskQueries]:
    """Queries of a model that are masked in training.

    Args:
        model: Model, wrapped or not.
    """
    found = [backbone.mask_queries for backbone in find_vits(model).values()]
    return [queries for queries in found if queries is not None and queries.masked_attention]
