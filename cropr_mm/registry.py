"""Registries of the plug-in: children of mmengine's, found by the scope prefix ``cropr_mm.``."""

from collections.abc import Mapping
from importlib import import_module
from inspect import isclass
from typing import Any

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import Registry

# Classes that need a host library, or libraries that training does without -> module.
_LAZY = {
    "AtomicCheckpointHook": "cropr_mm.hooks.checkpoint_hook",
    "CamVidDataset": "cropr_mm.datasets.camvid",
    "ClassVisualizationHook": "cropr_mm.hooks.class_visualization_hook",
    "ConvUpsampleMaskHead": "cropr_mm.heads.mask_head",
    "CroprAuxLossHook": "cropr_mm.hooks.aux_loss_hook",
    "CroprBenchmarkHook": "cropr_mm.hooks.benchmark_hook",
    "CroprCurriculumHook": "cropr_mm.hooks.curriculum_hook",
    "CroprElasticHook": "cropr_mm.hooks.elastic_hook",
    "CroprRouterHook": "cropr_mm.hooks.router_hook",
    "MaskAnnealingHook": "cropr_mm.hooks.mask_annealing_hook",
    "MaskQueryHead": "cropr_mm.heads.mask_query_head",
    "SegMaskQueryHead": "cropr_mm.heads.seg_mask_query_head",
    "EarlyExitHead": "cropr_mm.heads.early_exit_head",
    "FiniteLossHook": "cropr_mm.hooks.finite_loss_hook",
    "ProgressHook": "cropr_mm.hooks.progress_hook",
    "PruneAuditHook": "cropr_mm.hooks.prune_audit_hook",
    "PruningMapHook": "cropr_mm.hooks.pruning_map_hook",
    "RandomStateHook": "cropr_mm.hooks.random_state_hook",
    "SharedMaskCascadeRoIHead": "cropr_mm.heads.cascade_roi_head",
    "ThawHook": "cropr_mm.hooks.thaw_hook",
    "TokenRecordHook": "cropr_mm.hooks.token_record_hook",
}


class _LazyRegistry(Registry):
    """Imports such a class when it is asked for, and what it needs only then."""

    def get(self, key: str) -> type | None:
        """Class of a name, with or without the scope prefix."""
        module = _LAZY.get(key.removeprefix("cropr_mm."))
        if module is not None:
            import_module(module)
        return super().get(key)


MODELS = _LazyRegistry(
    "model",
    parent=MMENGINE_MODELS,
    scope="cropr_mm",
    locations=[
        "cropr_mm.layers.channel_norm",
        "cropr_mm.reducers",
        "cropr_mm.fusion",
        "cropr_mm.backbones",
        "cropr_mm.necks",
    ],
)
TASK_UTILS = Registry(
    "task util",
    parent=MMENGINE_TASK_UTILS,
    scope="cropr_mm",
    locations=["cropr_mm.schedules", "cropr_mm.targets"],
)
DATASETS = _LazyRegistry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope="cropr_mm",
    locations=[
        "cropr_mm.datasets.coco_multi_label",
        "cropr_mm.datasets.coco_single_label",
        "cropr_mm.datasets.nabirds",
        "cropr_mm.datasets.nuswide",
    ],
)
HOOKS = _LazyRegistry("hook", parent=MMENGINE_HOOKS, scope="cropr_mm")
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope="cropr_mm", locations=["cropr_mm.optim"]
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="cropr_mm",
    locations=["cropr_mm.optim"],
)


_REGISTRIES = (MODELS, TASK_UTILS, DATASETS, HOOKS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS)


def known_names() -> list[str]:
    """Names, without the prefix, of all classes of this package and of its plug-ins."""
    for registry in _REGISTRIES:
        registry.import_from_location()
    return sorted({*_LAZY, *(name for registry in _REGISTRIES for name in registry.module_dict)})


def find_class(name: str) -> type:
    """Class of one of :func:`known_names`."""
    found = (registry.get(f"cropr_mm.{name}") for registry in _REGISTRIES)
    return next(one for one in found if one is not None)


def class_of(cfg: Mapping[str, Any], registry: Registry) -> type:
    """Class that a config names, found as its builder finds it.

    Args:
        cfg: Config with ``type``, a class or its name.
        registry: Where to look for the name first.

    Raises:
        ValueError: If nothing is registered by that name.
    """
    kind = cfg["type"]
    if isclass(kind):
        return kind
    with registry.switch_scope_and_registry(cfg.get("_scope_")) as current:
        found = current.get(kind)
    if found is None:
        raise ValueError(f"{kind} is not in the {registry.name} registry")
    return found
