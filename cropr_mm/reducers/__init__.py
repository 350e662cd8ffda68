"""Token reduction methods."""

from cropr_mm.reducers.attn_topk import AttnTopK
from cropr_mm.reducers.base import TokenMerger, TokenPruner, TokenReducer
from cropr_mm.reducers.cropr import Cropr
from cropr_mm.reducers.cropr_auxiliary import CroprAuxiliary
from cropr_mm.reducers.non_salient import NonSalient
from cropr_mm.reducers.random import RandomPruner
from cropr_mm.reducers.variance import VariancePruner

__all__ = [
    "AttnTopK",
    "Cropr",
    "CroprAuxiliary",
    "NonSalient",
    "RandomPruner",
    "TokenMerger",
    "TokenPruner",
    "TokenReducer",
    "VariancePruner",
]
