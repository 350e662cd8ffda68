"""Build a target whose classes and grid follow from the training data and the model."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from cropr_mm.backbones.find import auxiliary_reducers, find_backbones
from cropr_mm.registry import TASK_UTILS, class_of
from cropr_mm.targets.base import AuxiliaryTarget, classes_of

_ADVICE = {
    "num_classes": "set num_classes in the hook's target",
    "grid": "set backbone.reducer.num_queries=(rows, columns) or grid in the hook's target",
}


def build_target(cfg: Mapping[str, Any], model: nn.Module, dataset: Any) -> AuxiliaryTarget:
    """Build a target; ``num_classes`` and ``grid``, where it takes them, need not be given.

    Classes then are those that the data set names, or else those of the auxiliary modules. The grid
    is that of the modules' queries, or that of the patches for methods without queries.

    Args:
        cfg: Config of an AuxiliaryTarget; not changed.
        model: Model whose auxiliary modules learn it.
        dataset: Training data set, whose ``metainfo`` may name the classes, or None.

    Raises:
        ValueError: If the target takes one of the two, and neither its config nor model and data
            set tell it.
    """
    given = dict(cfg)
    parameters = inspect.signature(class_of(cfg, TASK_UTILS)).parameters
    for name in _ADVICE.keys() & parameters.keys() - given.keys():
        value = _num_classes(model, dataset) if name == "num_classes" else _grid(model)
        if value is not None:
            given[name] = value
        elif parameters[name].default is inspect.Parameter.empty:
            raise ValueError(
                f"{given['type']} needs {name}, which neither model nor data set tell: "
                f"{_ADVICE[name]}"
            )
    return TASK_UTILS.build(given)


def _num_classes(model: nn.Module, dataset: Any) -> int | None:
    """Number of classes of the data set, or else of the first module that has classes."""
    classes = classes_of(dataset)
    if classes is not None:
        return len(classes)
    for backbone in find_backbones(model).values():
        for reducer in auxiliary_reducers(backbone).values():
            if hasattr(reducer.auxiliary, "num_classes"):
                return reducer.auxiliary.num_classes
    return None


def _grid(model: nn.Module) -> tuple[int, int] | None:
    """Grid of the first module's queries; of patches where it has no queries."""
    for backbone in find_backbones(model).values():
        for reducer in auxiliary_reducers(backbone).values():
            return getattr(reducer, "query_grid", backbone.grid)
    return None
