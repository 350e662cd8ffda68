"""Registries of the plug-in: children of mmengine's, found by the scope prefix ``cropr_mm.``."""

from importlib import import_module

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import Registry

# Classes that build on a host library -> module.
_HOSTED = {
    "CamVidDataset": "cropr_mm.datasets.camvid",
    "ClassVisualizationHook": "cropr_mm.hooks.class_visualization_hook",
    "ConvUpsampleMaskHead": "cropr_mm.heads.mask_head",
    "EarlyExitHead": "cropr_mm.heads.early_exit_head",
    "SharedMaskCascadeRoIHead": "cropr_mm.heads.cascade_roi_head",
}


class _HostedRegistry(Registry):
    """Imports such a class when it is asked for: only then is its host library sure to be there."""

    def get(self, key: str) -> type | None:
        module = _HOSTED.get(key.removeprefix("cropr_mm."))
        if module is not None:
            import_module(module)
        return super().get(key)


MODELS = _HostedRegistry(
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
DATASETS = _HostedRegistry(
    "dataset",
    parent=MMENGINE_DATASETS,
    scope="cropr_mm",
    locations=["cropr_mm.datasets.coco_multi_label"],
)
HOOKS = _HostedRegistry(
    "hook", parent=MMENGINE_HOOKS, scope="cropr_mm", locations=["cropr_mm.hooks"]
)
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, scope="cropr_mm", locations=["cropr_mm.optim"]
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="cropr_mm",
    locations=["cropr_mm.optim"],
)
