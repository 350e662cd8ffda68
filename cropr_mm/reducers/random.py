"""Random pruning, the baseline that a learned method must beat."""

from torch import Tensor

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens


@MODELS.register_module()
class RandomPruner(TokenPruner):
    """Keep tokens at random; the randomness is given as ``signals.noise``."""

    needs = frozenset({"noise"})

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Uniform random numbers, shape (B, N)."""
        return signals.noise
