"""What tests of the command-line tools share."""

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from tiny_tasks import write_images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a tool's file as the main program, in this process; returns what it printed.

    By name in tools/, or by path from the root.
    """

    def run(name: str, *args: object) -> str:
        file = ROOT / (name if "/" in name else f"tools/{name}")
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        monkeypatch.syspath_prepend(str(file.parent))  # as python does
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(str(file), run_name="__main__")
        return err.getvalue() + out.getvalue()

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny images."""
    root = tmp_path_factory.mktemp("tiny")
    write_images(root)
    return root
