"""A layer imports only layers above it, and the algorithmic ones know no host library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "cropr_mm"

# Top to bottom; layers of one row do not import each other.
ORDER = (
    ("moved",),
    ("compat", "messages", "registry", "structures", "text_table"),
    ("classes",),
    ("build",),
    ("ops",),
    ("tokens",),
    ("layers",),
    ("reducers",),
    ("fusion",),
    ("schedules",),
    ("checkpoints",),
    ("backbones", "necks", "heads"),
    ("targets", "pruning"),
    ("profiling", "inspection", "optim", "datasets"),
    ("hooks",),
    ("engine",),
    ("export",),
    ("budget",),
    ("visualization", "demo"),
)
RANK = {layer: rank for rank, row in enumerate(ORDER) for layer in row}
HOSTS = {"mmdet", "mmseg", "mmpretrain", "mmcv"}
HOST_FREE = {"structures", "ops", "tokens", "layers", "reducers", "fusion", "schedules"}
ALLOWED_IN_OPS = {"torch", "triton"}
ALLOWED_IN_RUNTIME = {"numpy", "PIL"}  # of exported models; it runs where nothing else is


def imported_modules(source: str, module: tuple[str, ...], is_package: bool) -> Iterator[list[str]]:
    """Yield the dotted path of everything that ``source`` imports, at any depth of nesting.

    Args:
        source: Python source text.
        module: Its own dotted path, which relative imports start from.
        is_package: Whether it is an ``__init__.py``.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = list(module if is_package else module[:-1])
            start = base[: len(base) - (node.level - 1)] if node.level else []
            start += node.module.split(".") if node.module else []
            for alias in node.names:
                yield [*start, alias.name]


def violations(package: Path) -> list[str]:
    """List what breaks the direction of imports in ``package``, a folder named cropr_mm."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = (package.name, *path.relative_to(package).with_suffix("").parts)
        is_package = module[-1] == "__init__"
        if is_package:
            module = module[:-1]
        if len(module) == 1:
            continue  # the package's own __init__ exports from everywhere
        layer = module[1]
        name = "/".join(path.relative_to(package).parts)
        if layer not in RANK:
            found.append(f"{name}: {layer} has no place in the order")
            continue
        for target in imported_modules(path.read_text(), module, is_package):
            problem = _problem(layer, target, package.name) or _problem_in_runtime(module, target)
            if problem:
                found.append(f"{name}: {problem}")
    return found


def _problem(layer: str, target: list[str], package: str) -> str:
    """Say what is wrong with an import of ``target`` in ``layer``; empty if nothing is."""
    dotted = ".".join(target)
    if target[0] == package:
        if len(target) < 2 or target[1] not in RANK:
            return f"imports {dotted}, which is no layer"
        if target[1] != layer and RANK[target[1]] >= RANK[layer]:
            return f"imports {dotted}, which is not above {layer}"
    elif layer in HOST_FREE and target[0] in HOSTS:
        return f"imports {dotted}; {layer} knows no host library"
    elif layer == "ops" and target[0] not in ALLOWED_IN_OPS | sys.stdlib_module_names:
        return f"imports {dotted}; ops needs torch only"
    return ""


def _problem_in_runtime(module: tuple[str, ...], target: list[str]) -> str:
    """Say what is wrong with an import by the runtime of exported models; empty if nothing is."""
    own = [module[0], "export", "runtime"]
    if list(module[1:3]) != own[1:] or target[:3] == own:
        return ""
    if target[0] in ALLOWED_IN_RUNTIME | sys.stdlib_module_names:
        return ""
    return f"imports {'.'.join(target)}; the runtime needs numpy and pillow only"


def test_layers_import_only_layers_above() -> None:
    assert violations(PACKAGE) == []


def test_every_layer_that_exists_is_seen() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {"ops", "layers", "reducers", "backbones", "hooks"} <= folders <= set(RANK)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ops/a.py", "from cropr_mm.hooks import AuxLossHook"),
        ("ops/a.py", "from cropr_mm import hooks"),
        ("ops/a.py", "import cropr_mm.layers.block"),
        ("ops/a.py", "import cropr_mm"),
        ("ops/a.py", "from .. import layers"),
        ("ops/a.py", "from ..layers import block"),
        ("ops/a.py", "from ..layers.block import Block"),
        ("ops/__init__.py", "from ..layers.block import Block"),
        ("ops/__init__.py", "from ..fusion import llf"),
        ("ops/a.py", "import scipy.ndimage"),
        ("layers/deep/a.py", "from ...reducers.cropr import Cropr"),
        ("layers/a.py", "def late():\n    from cropr_mm.reducers import Cropr"),
        ("necks/a.py", "from cropr_mm.backbones import CroprViT"),
        ("backbones/a.py", "from cropr_mm import CroprViT"),
        ("layers/a.py", "import mmcv"),
        ("reducers/a.py", "from mmdet.models import ViT"),
        ("fusion/a.py", "try:\n    import mmseg.models\nexcept ImportError:\n    pass"),
        ("schedules/a.py", "from mmpretrain import models"),
        ("export/runtime/a.py", "import torch"),
        ("export/runtime/a.py", "def late():\n    import cv2"),
        ("export/runtime/a.py", "from cropr_mm.engine import console"),
        ("export/runtime/a.py", "from cropr_mm.export.deploy import Deployed"),
        ("strays/a.py", "import torch"),
        ("strays.py", "import torch"),
    ],
)
def test_planted_violation_is_found(name: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / "cropr_mm" / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = violations(tmp_path / "cropr_mm")
    assert len(found) == 1
    assert found[0].startswith(name)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("__init__.py", "from cropr_mm.hooks import AuxLossHook\nfrom .backbones import CroprViT"),
        ("ops/a.py", "import math\nimport torch.nn.functional as F\nfrom .b import gather"),
        ("export/runtime/a.py", "import json\nfrom PIL import Image\nfrom .b import c"),
        ("export/a.py", "import torch\nfrom cropr_mm.export.runtime import load"),
        ("ops/__init__.py", "from . import a\nfrom .a import gather\nfrom ..structures import T"),
        ("hooks/a.py", "from mmdet.models import ViT\nfrom ..profiling import latency"),
        ("backbones/a.py", "from cropr_mm.ops import gather\nfrom ..registry import MODELS"),
    ],
)
def test_rightful_import_passes(name: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / "cropr_mm" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert violations(tmp_path / "cropr_mm") == []


def test_only_the_benchmark_hook_needs_profiling() -> None:
    folders = [PACKAGE / "hooks", PACKAGE / "inspection", PACKAGE / "demo"]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    users = [file.name for file in files if "cropr_mm.profiling" in file.read_text()]
    assert users == ["benchmark_hook.py"]


def test_the_loss_hook_imports_no_libraries_for_pictures() -> None:
    program = (
        "import sys; import mmengine.runner, mmengine.hooks, mmengine.visualization;"
        "before = set(sys.modules); from cropr_mm.registry import HOOKS;"
        "hook = HOOKS.get('cropr_mm.CroprAuxLossHook');"
        "from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook;"
        "assert hook is CroprAuxLossHook;"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert "cropr_mm.hooks.aux_loss_hook" in imported
    for name in ("matplotlib", "cv2", "mmcv", "mmdet", "cropr_mm.inspection", "cropr_mm.profiling"):
        assert not [module for module in imported if f"{module}.".startswith(f"{name}.")], name


def test_ops_can_be_imported_where_tensors_have_no_values() -> None:
    program = "import torch\nwith torch.device('meta'):\n    import cropr_mm.ops.select"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
