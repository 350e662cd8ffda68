"""Classes that need a host library are known to the registry by name before it is imported."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from cropr_mm import registry

HEADS = Path(__file__).parents[2] / "cropr_mm/heads"


def test_every_head_is_known_by_name() -> None:
    written = set()
    for path in HEADS.glob("*.py"):
        names = re.findall(r"@MODELS.register_module\(\)\nclass (\w+)", path.read_text())
        written |= {(name, f"cropr_mm.heads.{path.stem}") for name in names}
    assert len(written) >= 3
    assert written <= set(registry._HOSTED.items())


@pytest.mark.parametrize(("name", "module"), registry._HOSTED.items())
def test_class_is_found_by_name(name: str, module: str) -> None:
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    pytest.importorskip("mmpretrain")
    kind = getattr(import_module(module), name)
    registries = (registry.MODELS, registry.DATASETS, registry.HOOKS)
    assert [r.get(f"cropr_mm.{name}") for r in registries].count(kind) == 1
