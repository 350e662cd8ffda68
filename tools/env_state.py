"""What an environment is made from, and whether it is still whole; answers within milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import accelerator

ROOT = Path(__file__).resolve().parent.parent


class Stack(NamedTuple):
    """One line of host libraries and the folder of its environment."""

    name: str
    venv: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def uv(self) -> Path:
        """The environment's uv."""
        return self.venv / "bin" / "uv"

    @property
    def stamp(self) -> Path:
        """File that says what is installed."""
        return self.venv / "cropr_env.json"

    @property
    def pins(self) -> Path:
        """File with the pinned versions."""
        return ROOT / "requirements" / f"{self.name}.txt"

    @property
    def mmcv(self) -> str:
        """Pinned requirement of mmcv."""
        return (ROOT / "requirements" / f"{self.name}.mmcv.txt").read_text().strip()

    @property
    def site_packages(self) -> Path:
        """Folder of the installed packages."""
        return next(iter(self.venv.glob("lib/python3.*/site-packages")), self.venv / "missing")


def stack_named(name: str) -> Stack:
    """Return the stack called ``name``."""
    return Stack(name, ROOT / (".venv" if name == "onedl" else f".venv-{name}"))


def fingerprint(stack: Stack) -> str:
    """Hash what the environment depends on besides its own files."""
    digest = hashlib.sha256(str(ROOT).encode())
    names = ("env", "env_state", "accelerator", "mmcv_wheel", "mmcv_compile", "mmcv_unity")
    scripts = [Path(__file__).with_name(f"{name}.py") for name in names]
    for path in (stack.pins, ROOT / "setup.py", *scripts):
        digest.update(path.read_bytes())
    digest.update(stack.mmcv.encode())
    return digest.hexdigest()


def fault(stack: Stack) -> str:
    """Say what is wrong with the environment; empty if it is whole."""
    if not stack.venv.exists():
        return "no environment yet"
    if not os.access(stack.python, os.X_OK):
        return f"{stack.python} does not run"
    try:
        stamp = json.loads(stack.stamp.read_text())
    except (OSError, ValueError):
        return "the environment was never finished"
    if stamp["fingerprint"] != fingerprint(stack):
        return "pins, set-up scripts or the checkout's folder have changed"
    # A GPU that came asks for other ops; one that went (a login node) leaves them alone.
    if accelerator.describe() not in ("", stamp["accelerator"]):
        return "the GPU, its driver or its toolkit has changed"
    backend = accelerator.torch_backend(dict(os.environ))
    if backend not in (None, accelerator.installed_backend(stack.site_packages)):
        return "another build of torch is asked for"
    site = str(stack.site_packages)
    for name in stamp["files"]:
        if not os.path.exists(f"{site}/{name}"):
            return f"{name} is missing"
    return ""


def installed_files(site: Path) -> dict[str, list[str]]:
    """Map each dist-info folder in ``site`` to the files that its RECORD lists, bytecode aside.

    A distribution without a RECORD was installed halfway; it maps to its missing RECORD.
    """
    files = {}
    for info in sorted(site.glob("*.dist-info")):
        record = info / "RECORD"
        lines = record.read_text().splitlines() if record.exists() else [f"{info.name}/RECORD,,"]
        names = [re.sub(r",[^,]*,[^,]*$", "", line).strip('"') for line in lines]
        files[info.name] = [n for n in names if not n.endswith(".pyc")]
    return files


def broken_distributions(site: Path) -> list[str]:
    """Name the distributions in ``site`` that lack a file."""
    return [
        info.split("-")[0]
        for info, names in installed_files(site).items()
        if not all(os.path.exists(f"{site}/{name}") for name in names)
    ]
