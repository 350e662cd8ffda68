"""A built wheel runs everything that the package offers, without the repository around it."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_tasks import write_config

ROOT = Path(__file__).parents[2]
USER = Path(__file__).with_name("wheel_user.py")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
# Messages: where old names have gone, and where a user's config has.
ALLOWED = ("moved.py", "config.py")
NOT_INSTALLED = ("benchmarks", "configs", "docs", "tests", "tools")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the package as its wheel installs it."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"  # a copy: a build leaves files beside its sources
    shutil.copytree(ROOT / "cropr_mm", source / "cropr_mm")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *options, "--no-build-isolation", "-w", root, source], root)
    (wheel,) = root.glob("cropr_mm-*.whl")
    run([*pip, "install", *options, "--target", root / "installed", wheel], root)
    shutil.rmtree(source)
    return root / "installed"


def run(command: list[str | Path], folder: Path, **env: str) -> str:
    """Run a command in a folder; its output."""
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.slow
def test_the_installed_package_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty, configs = tmp_path / "empty", tmp_path / "configs"
    empty.mkdir()
    reducer = dict(type="cropr_mm.Cropr", num_classes=2)
    config = write_config(tmp_path, "cls", model__backbone__reducer=reducer)
    shutil.copytree(ROOT / "configs", configs)
    arguments = [installed, config, configs / "demo"]
    output = run([sys.executable, USER, *arguments], empty, PYTHONPATH=str(installed))
    files = [path.relative_to(ROOT) for path in (ROOT / "cropr_mm").rglob("*.py")]
    assert output.count("imported cropr_mm") == len(files)
    assert output.endswith("all done\n")


def test_no_module_names_a_folder_that_is_not_installed() -> None:
    found = {
        (str(path.relative_to(ROOT)), text)
        for path in (ROOT / "cropr_mm").rglob("*.py")
        if path.name not in ALLOWED
        for text in folders_named(path.read_text())
    }
    assert found == set()


def test_a_module_that_looks_for_configs_is_found() -> None:
    assert [*folders_named('"""configs"""\nA = Path(__file__).parents[2] / "configs"')] == [
        "configs"
    ]
    assert [*folders_named('load("configs/demo/a.py")')] == ["configs/demo/a.py"]
    assert not [*folders_named('"""See tools/train.py."""\nA = "the configs of a task"')]


def folders_named(source: str) -> Iterator[str]:
    """Texts of a module that are such a folder or a path in it; docstrings are for readers."""
    tree = ast.parse(source)
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    for node in texts:
        if id(node) not in prose and str(node.value).partition("/")[0] in NOT_INSTALLED:
            yield str(node.value)
