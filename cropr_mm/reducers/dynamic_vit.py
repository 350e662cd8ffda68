"""DynamicViT: drop the tokens that a small network predicts to be needless."""

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.reducers.keep_decision import KeepDecision
from cropr_mm.registry import MODELS


@MODELS.register_module()
class DynamicViT(KeepDecision, TokenPruner):
    """Learned pruning; arguments and training as in :class:`KeepDecision`.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), with the released code's losses: the target
    ``KeepRatioTarget`` and the teacher of ``CroprAuxLossHook``.
    """
