"""Compile mmcv once per user and keep the wheel, keyed by everything it was compiled against.

The package index holds mmcv as source only. Its extension fits one torch, one Python and either
the CPU or a set of GPU architectures; installers' own caches know none of these.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

# Run by the environment's interpreter: what torch was built for and what the machine offers.
PROBE = """
import json, torch
from torch.utils.cpp_extension import CUDA_HOME
usable = torch.cuda.is_available()
devices = range(torch.cuda.device_count()) if usable else []
print(json.dumps(dict(
    torch=torch.__version__, cuda=torch.version.cuda, toolkit=CUDA_HOME, usable=usable,
    archs=sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in devices}))))
"""


class BuildError(RuntimeError):
    """Something the user has to change before mmcv can be compiled."""


class Target(NamedTuple):
    """What a wheel is compiled against."""

    torch: str  # full version, with the local label: 2.11.0+cu130
    archs: str  # GPU architectures as in TORCH_CUDA_ARCH_LIST, empty for CPU ops only
    cuda: str  # toolkit release such as 13.0, empty for CPU ops only
    reason: str  # why the CPU ops were chosen, empty if that needs no explanation

    @property
    def ops(self) -> str:
        """Which ops are compiled, in words."""
        return f"CUDA {self.cuda} ops (sm {self.archs})" if self.cuda else "CPU ops"


def cache_dir() -> Path:
    """Return the folder of this user's wheels."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cropr_mm" / "wheels"


def key(requirement: str, target: Target) -> str:
    """Name the cache folder of ``requirement`` ("name==version") for ``target``."""
    accelerator = f"cu{target.cuda}-sm{target.archs}" if target.cuda else "cpu"
    label = "-".join(
        [
            requirement.replace("==", "-"),
            f"torch{target.torch}",
            f"cp{sys.version_info.major}{sys.version_info.minor}",
            f"{sys.platform}_{platform.machine()}",
            accelerator,
        ]
    )
    return re.sub(r"[^\w.+-]+", "_", label)


def choose_target(probe: dict, toolkit_release: str, environ: dict[str, str]) -> Target:
    """Decide between CUDA and CPU ops.

    Args:
        probe: What ``PROBE`` printed.
        toolkit_release: Release of the CUDA toolkit that torch finds, empty if none.
        environ: ``FORCE_CUDA=0`` asks for CPU ops, ``FORCE_CUDA=1`` for CUDA ops also where no
            GPU is visible; then ``TORCH_CUDA_ARCH_LIST`` must say for which ones.

    Raises:
        BuildError: If CUDA ops are asked for and cannot be built.
    """
    archs = environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(probe["archs"])
    forced = environ.get("FORCE_CUDA", "")
    problem = ""
    if not probe["cuda"]:
        problem = "this torch is built without CUDA"
    elif not toolkit_release:
        problem = "no CUDA toolkit (nvcc) found; set CUDA_HOME if there is one"
    elif toolkit_release.split(".")[0] != probe["cuda"].split(".")[0]:
        problem = f"torch needs a CUDA {probe['cuda']} toolkit, found {toolkit_release}"
    elif not archs:
        problem = "no GPU visible; set TORCH_CUDA_ARCH_LIST"
    if forced == "1" and problem:
        raise BuildError(f"FORCE_CUDA=1, but {problem}")
    if forced == "0" or not (probe["usable"] or forced == "1"):
        return Target(probe["torch"], "", "", "")
    if problem:
        return Target(probe["torch"], "", "", problem)
    return Target(probe["torch"], archs, toolkit_release, "")


def find_target(python: Path) -> Target:
    """Return what mmcv has to be compiled against in the environment of ``python``."""
    answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BuildError(f"torch does not import:\n{answer.stderr.strip()}")
    probe = json.loads(answer.stdout.splitlines()[-1])
    release = ""
    nvcc = Path(probe["toolkit"] or "/nonexistent") / "bin" / "nvcc"
    if nvcc.exists():
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
        match = re.search(r"release (\d+\.\d+)", text.stdout)
        release = match[1] if match else ""
    return choose_target(probe, release, dict(os.environ))


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
        raise BuildError(f"mmcv is compiled from source: no C++ compiler ({', '.join(compiler)})")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise BuildError(f"mmcv is compiled from source: {header} is missing (python3-dev)")


def might_be_cached(requirement: str) -> bool:
    """Tell whether some wheel of ``requirement`` is cached, whatever it was compiled against."""
    return any(p.is_dir() for p in cache_dir().glob(requirement.replace("==", "-") + "-*"))


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
        BuildError: If the compilation fails; names the log.
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
            _compile(python, requirement, target, build, log, tell)
            if cached(build / "wheel") is None:
                raise BuildError(f"the wheel holds no compiled ops; log: {log}")
            shutil.rmtree(folder, ignore_errors=True)
            (build / "wheel").rename(folder)
        finally:
            shutil.rmtree(build, ignore_errors=True)
        log.unlink()
        made = cached(folder)
        assert made is not None, f"{folder} was whole a moment ago"
        return made


def _compile(
    python: Path,
    requirement: str,
    target: Target,
    build: Path,
    log: Path,
    tell: Callable[[str], None],
) -> None:
    """Run the compilation in ``build``, outside mmcv's source folder, and report progress."""
    flags = {name: f"{os.environ.get(name, '')} -w -g0".strip() for name in ("CFLAGS", "CXXFLAGS")}
    environ = {**os.environ, **flags, "MMCV_WITH_OPS": "1", "TMPDIR": str(build)}
    environ.setdefault("MAX_JOBS", str(_jobs()))
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', '')}"
    if target.cuda:
        environ |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": target.archs}
    else:
        # mmcv compiles for CUDA whenever torch sees a GPU.
        environ |= {"FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""}
    name = requirement.split("==")[0]
    command = [str(python), "-m", "pip", "wheel", "-v", "--no-cache-dir", "--no-deps"]
    command += ["--no-build-isolation", "--no-binary", name, "-w", str(build / "wheel")]
    command += [requirement]
    tell(f"compiling {target.ops}, {environ['MAX_JOBS']} at a time, once per user; log: {log}")
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=build, env=environ, stdout=out, stderr=out, start_new_session=True
        )
        try:
            _watch(process, log, tell)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise BuildError(f"{requirement} does not compile; the end of {log}:\n{tail}")


def _jobs() -> int:
    """Return how many compilers fit: one a core, one for each 2 GiB of memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores or 1, memory // 2**31))


def _watch(process: subprocess.Popen, log: Path, tell: Callable[[str], None]) -> None:
    """Report the number of compiled files, once a minute, until the process ends."""
    start = time.monotonic()
    minutes = 0
    while process.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - start >= 60 * (minutes + 1):
            minutes += 1
            steps = re.findall(r"^\s*\[(\d+)/(\d+)\]", log.read_text(errors="replace"), re.M)
            if steps:
                tell(f"compiled {steps[-1][0]} of {steps[-1][1]} files, {minutes} min")
