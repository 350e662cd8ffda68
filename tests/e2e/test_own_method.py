"""README's own pruner, in a file of its own: every tool knows it by one line of a config."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from snippets import ROOT, snippet
from tiny_tasks import write_config

from cropr_mm.registry import MODELS

README = ROOT / "README.md"


@pytest.fixture
def config(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A segmenter with README's pruner, which lies in a folder of the search path."""
    method = snippet("README.md", "python", "class NormPruner")
    (module,) = re.findall(r"custom_imports = dict\(imports=\[.(\w+).\]\)", README.read_text())
    (tmp_path / f"{module}.py").write_text(method)
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(MODELS.module_dict)
    reducer = dict(_delete_=True, type="cropr_mm.NormPruner")
    imports = dict(imports=[module])
    yield write_config(root, "seg", custom_imports=imports, model__backbone__reducer=reducer)
    MODELS.module_dict.clear()
    MODELS.module_dict.update(known)


def test_a_method_in_a_file_of_its_own_goes_through_every_tool(
    config: Path, root: Path, tool: Callable[..., str], tmp_path: Path
) -> None:
    assert "| `NormPruner` | tokens, whole |" in tool("complexity.py", "--methods", config)
    tool("train.py", config, "--work-dir", tmp_path / "run")
    model = (config, tmp_path / "run/iter_2.pth")
    assert "patches kept" in tool("analyze_tokens.py", *model, "--out", tmp_path / "tokens")
    image = next((root / "seg").glob("*.png"))
    tool("visualize.py", *model, image, "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 0
