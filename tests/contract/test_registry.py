"""Classes that are imported when asked for are known to the registry by name before."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from cropr_mm import registry

PACKAGE = Path(__file__).parents[2] / "cropr_mm"


@pytest.mark.parametrize("folder", ["heads", "hooks"])
def test_every_head_and_hook_is_known_by_name(folder: str) -> None:
    written = set()
    for path in (PACKAGE / folder).glob("*.py"):
        names = re.findall(r"@\w+.register_module\(\)\nclass (\w+)", path.read_text())
        written |= {(name, f"cropr_mm.{folder}.{path.stem}") for name in names}
    assert len(written) >= 3
    assert written <= set(registry._LAZY.items())


@pytest.mark.parametrize(("name", "module"), registry._LAZY.items())
def test_class_is_found_by_name(name: str, module: str) -> None:
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    pytest.importorskip("mmpretrain")
    kind = getattr(import_module(module), name)
    registries = (registry.MODELS, registry.DATASETS, registry.HOOKS)
    assert [r.get(f"cropr_mm.{name}") for r in registries].count(kind) == 1
