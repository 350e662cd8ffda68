"""Hooks for mmengine's runner."""

from cropr_mm.hooks.aux_loss import CroprAuxLossHook
from cropr_mm.hooks.benchmark import CroprBenchmarkHook
from cropr_mm.hooks.curriculum import CroprCurriculumHook
from cropr_mm.hooks.progress import ProgressHook
from cropr_mm.hooks.prune_audit import PruneAuditHook
from cropr_mm.hooks.pruning_map import PruningMapHook
from cropr_mm.hooks.token_record import TokenRecordHook

__all__ = [
    "CroprAuxLossHook",
    "CroprBenchmarkHook",
    "CroprCurriculumHook",
    "ProgressHook",
    "PruneAuditHook",
    "PruningMapHook",
    "TokenRecordHook",
]
