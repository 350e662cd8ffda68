"""Token reduction methods."""

from cropr_mm.reducers.ats import ATS
from cropr_mm.reducers.attention_ranker import AttentionRanker
from cropr_mm.reducers.attn_topk import AttnTopK
from cropr_mm.reducers.base import (
    MergingReducer,
    TokenMerger,
    TokenPruner,
    TokenRanker,
    TokenReducer,
)
from cropr_mm.reducers.cropr import Cropr
from cropr_mm.reducers.cropr_auxiliary import CroprAuxiliary
from cropr_mm.reducers.dpc_knn import DPCKNN
from cropr_mm.reducers.dtop import DToP
from cropr_mm.reducers.dynamic_vit import DynamicViT
from cropr_mm.reducers.evit import EViT
from cropr_mm.reducers.k_medoids import KMedoids
from cropr_mm.reducers.keep_decision import KeepDecision
from cropr_mm.reducers.non_salient import NonSalient
from cropr_mm.reducers.patch_merger import PatchMerger
from cropr_mm.reducers.radial import RadialPruner
from cropr_mm.reducers.random import RandomPruner
from cropr_mm.reducers.shortcut_pruner import ShortcutPruner
from cropr_mm.reducers.sinkhorn import Sinkhorn
from cropr_mm.reducers.sit import SiT
from cropr_mm.reducers.soft_merger import SoftMerger
from cropr_mm.reducers.tome import ToMe
from cropr_mm.reducers.tps import DTPS, ETPS
from cropr_mm.reducers.variance import VariancePruner

__all__ = [
    "ATS",
    "DPCKNN",
    "DTPS",
    "ETPS",
    "AttentionRanker",
    "AttnTopK",
    "Cropr",
    "CroprAuxiliary",
    "DToP",
    "DynamicViT",
    "EViT",
    "KMedoids",
    "KeepDecision",
    "MergingReducer",
    "NonSalient",
    "PatchMerger",
    "RadialPruner",
    "RandomPruner",
    "ShortcutPruner",
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
