"""Token reduction methods."""

from cropr_mm.reducers.attn_topk import AttnTopK
from cropr_mm.reducers.base import TokenMerger, TokenPruner, TokenRanker, TokenReducer
from cropr_mm.reducers.cropr import Cropr
from cropr_mm.reducers.cropr_auxiliary import CroprAuxiliary
from cropr_mm.reducers.dpc_knn import DPCKNN
from cropr_mm.reducers.evit import EViT
from cropr_mm.reducers.k_medoids import KMedoids
from cropr_mm.reducers.non_salient import NonSalient
from cropr_mm.reducers.patch_merger import PatchMerger
from cropr_mm.reducers.radial import RadialPruner
from cropr_mm.reducers.random import RandomPruner
from cropr_mm.reducers.sinkhorn import Sinkhorn
from cropr_mm.reducers.sit import SiT
from cropr_mm.reducers.soft_merger import SoftMerger
from cropr_mm.reducers.tome import ToMe
from cropr_mm.reducers.tps import ETPS
from cropr_mm.reducers.variance import VariancePruner

__all__ = [
    "DPCKNN",
    "ETPS",
    "AttnTopK",
    "Cropr",
    "CroprAuxiliary",
    "EViT",
    "KMedoids",
    "NonSalient",
    "PatchMerger",
    "RadialPruner",
    "RandomPruner",
    "SiT",
    "Sinkhorn",
    "SoftMerger",
    "ToMe",
    "TokenMerger",
    "TokenPruner",
    "TokenRanker",
    "TokenReducer",
    "VariancePruner",
]
