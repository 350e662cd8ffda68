"""The recipes of docs/extending.md work as they stand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from snippets import snippet, snippets
from tiny_tasks import write_config

from cropr_mm.registry import MODELS, TASK_UTILS

PAGE = "docs/extending.md"
PARTS = ("OutlierPruner(", "Halve(", "DominantClassTarget(", "TimmViT(")


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Forget what the recipes register."""
    before = [(registry, dict(registry.module_dict)) for registry in (MODELS, TASK_UTILS)]
    yield
    for registry, known in before:
        registry.module_dict.clear()
        registry.module_dict.update(known)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The import line of the page, with its file in the search path, and all settings shown."""
    code = "\n\n".join(snippet(PAGE, "python", f"class {name}") for name in PARTS)
    (tmp_path / "my_parts.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    settings: dict[str, Any] = {}
    for block in snippets(PAGE, "python"):
        if "class " not in block and "def " not in block:
            exec(block, settings)
    return settings


def test_reducer_schedule_and_target_train(
    parts: dict[str, Any], root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    cropr = dict(_delete_=True, type="cropr_mm.Cropr", num_classes=2)
    changes = dict(
        custom_imports=parts["custom_imports"],
        custom_hooks=parts["custom_hooks"],
        model__backbone__schedule=dict(_delete_=True, **parts["schedule"]),
    )
    learned = write_config(root, "seg", model__backbone__reducer=cropr, **changes)
    tool("train.py", learned, "--work-dir", tmp_path / "learned")
    (log,) = (tmp_path / "learned").glob("*/*.log")
    assert "loss_cropr_b02" in log.read_text()
    del changes["custom_hooks"]
    own = dict(_delete_=True, **parts["reducer"])
    scored = write_config(root, "seg", model__backbone__reducer=own, **changes)
    tool("train.py", scored, "--work-dir", tmp_path / "scored")
    said = tool("complexity.py", scored)
    counts = [int(line.split()[1]) for line in said.splitlines() if line[:3].strip().isdigit()]
    assert [count - counts[0] for count in counts[:4]] == [0, 0, -32, -48]


def test_backbone_is_timms_and_prunes(parts: dict[str, Any]) -> None:
    exec(snippet(PAGE, "python", "class TimmViT("), {})
    cfg = dict(parts["backbone"])
    model = MODELS.build(cfg).eval()
    (features,) = model(torch.randn(1, 3, 224, 224))
    assert features.shape == (1, 192, 14, 14)
    assert model.tokens_per_block()[-3:] == [49, 24, 196]
    dense = MODELS.build(dict(type=cfg["type"], name=cfg["name"])).eval()
    images = torch.randn(1, 3, 224, 224)
    expected = dense.vit.blocks(dense.vit.patch_embed(images) + dense.vit.pos_embed)
    torch.testing.assert_close(dense(images)[0].flatten(2).transpose(1, 2), expected)


def test_exporter_writes_a_program(root: Path, tmp_path: Path) -> None:
    cfg = Config.fromfile(write_config(root, "cls"))
    names: dict[str, Any] = {}
    exec(snippet(PAGE, "python", "def export_encoder("), names)
    model = names["build_model"](cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "model.pth")
    names["export_encoder"](cfg, tmp_path / "model.pth", tmp_path / "encoder.pt2")
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program(image), model.eval().backbone(image))
