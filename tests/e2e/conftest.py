"""What tests of the command-line tools share."""

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from run_tool import run_tool
from tiny_tasks import write_images


@pytest.fixture
def tool() -> Callable[..., str]:
    """Runs a tool's file as the main program, in this process; returns what it printed.

    By name in tools/, or by path from the root.
    """

    def run(name: str, *args: object) -> str:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            run_tool(name, *args)
        return err.getvalue() + out.getvalue()

    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the tiny images."""
    root = tmp_path_factory.mktemp("tiny")
    write_images(root)
    return root
