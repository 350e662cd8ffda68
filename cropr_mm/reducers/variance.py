"""Pruning by pixel variance, a baseline that looks at the image only."""

from torch import Tensor

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens


@MODELS.register_module()
class VariancePruner(TokenPruner):
    """Drop the patches whose pixels vary least."""

    needs = frozenset({"variance"})

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        return signals.variance
