"""Hooks for mmengine's runner; each is imported, with what it needs, when it is asked for."""

from typing import Any

from cropr_mm.registry import HOOKS

__all__ = [
    "AtomicCheckpointHook",
    "CroprAuxLossHook",
    "CroprBenchmarkHook",
    "CroprCurriculumHook",
    "CroprElasticHook",
    "CroprRouterHook",
    "FiniteLossHook",
    "MaskAnnealingHook",
    "ProgressHook",
    "PruneAuditHook",
    "PruningMapHook",
    "RandomStateHook",
    "ThawHook",
    "TokenRecordHook",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return HOOKS.get(f"cropr_mm.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
