"""Hooks for mmengine's runner."""

from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.hooks.benchmark_hook import CroprBenchmarkHook
from cropr_mm.hooks.curriculum_hook import CroprCurriculumHook
from cropr_mm.hooks.progress_hook import ProgressHook
from cropr_mm.hooks.prune_audit_hook import PruneAuditHook
from cropr_mm.hooks.pruning_map_hook import PruningMapHook
from cropr_mm.hooks.token_record_hook import TokenRecordHook

__all__ = [
    "CroprAuxLossHook",
    "CroprBenchmarkHook",
    "CroprCurriculumHook",
    "ProgressHook",
    "PruneAuditHook",
    "PruningMapHook",
    "TokenRecordHook",
]
