"""Run the file of a program as python does, in this process."""

import runpy
import sys
from pathlib import Path
from unittest.mock import patch

from hosts import forget_runs

ROOT = Path(__file__).parents[2]


def run_tool(name: str, *args: object) -> None:
    """Run a program by name in tools/, or by path from the root, with these arguments."""
    file = ROOT / (name if "/" in name else f"tools/{name}")
    forget_runs()
    argv = [name, *map(str, args)]
    with patch.object(sys, "argv", argv), patch.object(sys, "path", [str(file.parent), *sys.path]):
        runpy.run_path(str(file), run_name="__main__")
