"""Make mmengine's ``CheckpointLoader`` load every kind of address with :func:`safe_load`."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.fileio import get_local_path
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.safe import MapLocation, safe_load


def register_safe_loader() -> None:
    """Make mmengine load every checkpoint through :func:`safe_load`.

    That covers ``load_from``, ``resume`` and ``init_cfg``; mmengine's own loaders unpickle whatever
    the safe way refuses. Calling this twice is harmless.
    """
    loaders: dict[str | tuple[str, ...], Callable[..., Any]] = {
        ("", "http://", "https://"): load_from_safe,
        ("modelzoo://", "torchvision://"): load_from_torchvision,
        ("open-mmlab://", "openmmlab://"): load_from_openmmlab,
        "mmcls://": load_from_mmcls,
        (r"(\S+\:)?s3://", r"(\S+\:)?petrel://"): load_from_storage,
        "pavi://": load_from_pavi,
    }
    for prefixes, loader in loaders.items():
        CheckpointLoader.register_scheme(prefixes, loader, force=True)


# mmengine calls these with the whole address, and logs their names from the eleventh letter on.


def load_from_safe(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load a local file or an http(s) address."""
    return safe_load(filename, map_location)


def load_from_torchvision(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load weights that torchvision publishes under a name."""
    return safe_load(_look_up(filename, get_torchvision_models()), map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load weights that OpenMMLab publishes under a name."""
    models = dict(get_external_models())
    for old, new in get_deprecated_model_names().items():
        models.setdefault(old, models.get(new))
    return safe_load(_look_up(filename, models), map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load the backbone of a classifier that OpenMMLab publishes under a name."""
    checkpoint = safe_load(_look_up(filename, get_mmcls_models()), map_location)
    weights = checkpoint.get("state_dict", checkpoint)
    prefix = "backbone."
    weights = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    return dict(state_dict=weights)


def load_from_storage(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Load a file from object storage."""
    with get_local_path(filename, backend_args=dict(backend="petrel")) as file:
        return safe_load(file, map_location)


def load_from_pavi(filename: str, map_location: MapLocation = "cpu") -> dict[str, Any]:
    """Refuse: this service hands files to mmengine's own loader only."""
    raise CheckpointError(
        f"expected a file, an http(s) address or a known model name, got {filename}"
    )


def _look_up(address: str, models: Mapping[str, str]) -> str:
    name = address.split("://", 1)[1]
    if name not in models:
        raise CheckpointError(f"{address}: expected one of {len(models)} known names, got {name!r}")
    return models[name]
