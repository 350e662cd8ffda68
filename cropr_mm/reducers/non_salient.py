"""Cropr with the opposite choice, a sanity check."""

from torch import Tensor

from cropr_mm.reducers.cropr import Cropr
from cropr_mm.registry import MODELS


@MODELS.register_module()
class NonSalient(Cropr):
    """Keep the patch tokens that Cropr would drop first; it should do much worse."""

    def logits(self, x: Tensor) -> Tensor:
        """Cropr's logits with the other sign."""
        return 0 - super().logits(x)  # OpenVINO folds a minus into the query, and then fails
