"""Compile mmcv once per user and keep the wheel, keyed by everything it was compiled against.

The package index holds mmcv as source only. Its extension fits one torch, one Python and either
the CPU or a set of GPU architectures; installers' own caches know none of these.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerator import EnvError, Target
from mmcv_compile import compile_wheel


def cache_dir() -> Path:
    """Return the folder of this user's wheels."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cropr_mm" / "wheels"


def key(requirement: str, target: Target) -> str:
    """Name the cache folder of ``requirement`` ("name==version") for ``target``."""
    ops = f"cu{target.cuda}-sm{target.archs}" if target.cuda else "cpu"
    label = "-".join(
        [
            requirement.replace("==", "-"),
            f"torch{target.torch}",
            f"cp{sys.version_info.major}{sys.version_info.minor}",
            f"{sys.platform}_{platform.machine()}",
            f"{ops}-O3",  # a folder without it holds ops that were compiled without optimization
        ]
    )
    return re.sub(r"[^\w.+-]+", "_", label)


def cached(folder: Path) -> Path | None:
    """Return the whole wheel in ``folder``, or None."""
    for wheel in folder.glob("*.whl"):
        try:
            with zipfile.ZipFile(wheel) as archive:
                extension = any(re.match(r"mmcv/_ext.*\.so$", n) for n in archive.namelist())
                if extension and archive.testzip() is None:
                    return wheel
        except (zipfile.BadZipFile, OSError):
            continue
    return None


def require_compiler() -> None:
    """Raise before anything long is done if nothing can be compiled here."""
    compiler = os.environ.get("CXX", "").split() or ["c++", "g++", "clang++"]
    if not any(map(shutil.which, compiler)):
        raise EnvError(f"mmcv is compiled from source: no C++ compiler ({', '.join(compiler)})")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise EnvError(f"mmcv is compiled from source: {header} is missing (python3-dev)")


def might_be_cached(requirement: str) -> bool:
    """Tell whether some wheel of ``requirement`` is cached, whatever it was compiled against."""
    return any(p.is_dir() for p in cache_dir().glob(requirement.replace("==", "-") + "-*-O3"))


@contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; call ``waiting`` once if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def wheel(python: Path, requirement: str, target: Target, tell: Callable[[str], None]) -> Path:
    """Return the wheel of ``requirement`` for ``target``, compiled now if it is not cached.

    Args:
        python: Interpreter of the environment, with torch, setuptools and ninja installed.
        requirement: "name==version" of the mmcv distribution.
        target: What to compile against.
        tell: Receives progress lines.

    Raises:
        EnvError: If the compilation fails; names the log.
    """
    folder = cache_dir() / key(requirement, target)
    lock = folder.with_name(folder.name + ".lock")
    with locked(lock, lambda: tell("another process compiles it: waiting")):
        found = cached(folder)
        if found:
            return found
        for stale in folder.parent.glob(f".{folder.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        log = folder.with_name(folder.name + ".log")
        build = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            (build / "wheel").mkdir()
            compile_wheel(python, requirement, target, build, log, tell)
            if cached(build / "wheel") is None:
                raise EnvError(f"the wheel holds no compiled ops; log: {log}")
            shutil.rmtree(folder, ignore_errors=True)
            (build / "wheel").rename(folder)
        finally:
            shutil.rmtree(build, ignore_errors=True)
        log.unlink()
        made = cached(folder)
        assert made is not None, f"{folder} was whole a moment ago"
        return made
