"""Compile mmcv's wheel from its sdist, with progress; groups of sources that fail go one by one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from accelerator import EnvError, Target

MAKE_WHEEL = Path(__file__).with_name("mmcv_unity.py")
MEMORY_PER_COMPILER = 3 * 2**30  # bytes; a group of 20 sources took 2.3 GB
# Setuptools from 75 on takes these for the interpreter's own flags, older ones add them.
FLAGS = "-O3 -DNDEBUG -fwrapv -w -g0"

Tell = Callable[[str], None]
Command = list[str | Path]


def compile_wheel(
    python: Path, requirement: str, target: Target, build: Path, log: Path, tell: Tell
) -> None:
    """Compile into ``build / "wheel"``.

    Args:
        python: Interpreter of the environment, with torch, setuptools and ninja installed.
        requirement: "name==version" of the mmcv distribution.
        target: What to compile for.
        build: Empty folder that is removed later.
        log: Receives what the compilers print.
        tell: Receives progress lines.

    Raises:
        EnvError: If a source does not compile by itself either; holds the end of the log.
    """
    environ = _environ(python, target, build)
    jobs = environ["MAX_JOBS"]
    log.write_bytes(b"")
    tell(f"compiling {target.ops}, {jobs} files at a time, once per user; log: {log}")
    try:
        source = _unpacked(python, requirement, build, environ, log)
        make_wheel: Command = [python, MAKE_WHEEL, build / "wheel", "--jobs", jobs, "--apart"]
        apart: set[str] = set()
        while not _runs([*make_wheel, *sorted(apart)], source, environ, log, tell):
            failed = failed_groups(log.read_text(errors="replace")) - apart
            if not failed:
                raise EnvError("a source does not compile")
            tell(f"{', '.join(sorted(failed))}: fails as a whole, compiling one by one")
            apart |= failed
    except EnvError as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise EnvError(f"{requirement}: {error}; the end of {log}:\n{tail}") from None


def failed_groups(log: str) -> set[str]:
    """Name the groups of sources that ninja reports as failed."""
    return set(re.findall(r"^FAILED:.*/(group_\w+)\.o\b", log, flags=re.M))


def _environ(python: Path, target: Target, build: Path) -> dict[str, str]:
    """Return the environment of the compilation."""
    flags = {name: f"{os.environ.get(name, '')} {FLAGS}".strip() for name in ("CFLAGS", "CXXFLAGS")}
    environ = {**os.environ, **flags, "MMCV_WITH_OPS": "1", "TMPDIR": str(build)}
    environ.setdefault("MAX_JOBS", str(_jobs()))
    environ["PATH"] = f"{python.parent}{os.pathsep}{environ.get('PATH', '')}"
    if target.cuda:
        # Headers of CUDA's libraries come with torch too, where the toolkit has none of them.
        headers = _cuda_headers(python, target.cuda.split(".")[0])
        known = [path for path in (os.environ.get("CPATH"), *headers) if path]
        environ |= {"CPATH": os.pathsep.join(known)} if known else {}
        return environ | {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": target.archs}
    # mmcv compiles for CUDA whenever torch sees a GPU.
    return environ | {"FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""}


def _cuda_headers(python: Path, major: str) -> list[str]:
    """Return the folders of CUDA's headers among the packages of the environment."""
    site_packages = python.parent.parent / "lib"
    return [str(f) for f in site_packages.glob(f"python*/site-packages/nvidia/cu{major}/include")]


def _jobs() -> int:
    """Return how many compilers fit: one a core, as far as the memory goes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores or 1, memory // MEMORY_PER_COMPILER))


def _unpacked(
    python: Path, requirement: str, build: Path, environ: dict[str, str], log: Path
) -> Path:
    """Download the sdist of ``requirement`` and return its unpacked folder."""
    name = requirement.split("==")[0]
    command: Command = [python, "-m", "pip", "download", "--no-cache-dir", "--no-deps"]
    command += ["--no-build-isolation", "--no-binary", name, "-d", build / "sdist", requirement]
    if not _runs(command, build, environ, log, lambda text: None):
        raise EnvError("its source cannot be downloaded")
    (archive,) = (build / "sdist").iterdir()
    shutil.unpack_archive(archive, build / "source")
    (folder,) = (build / "source").iterdir()
    return folder


def _runs(command: Command, folder: Path, environ: dict[str, str], log: Path, tell: Tell) -> bool:
    """Run a command, with its output appended to the log, and tell whether it succeeded."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=environ,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            _watch(process, log, tell)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    return process.returncode == 0


def _watch(process: subprocess.Popen, log: Path, tell: Tell) -> None:
    """Report the number of compiled files, once a minute, until the process ends."""
    start = time.monotonic()
    minutes = 0
    while process.poll() is None:
        time.sleep(0.2)
        if time.monotonic() - start >= 60 * (minutes + 1):
            minutes += 1
            steps = re.findall(r"^\s*\[(\d+)/(\d+)\]", log.read_text(errors="replace"), re.M)
            done = f"{steps[-1][0]} of {steps[-1][1]} files compiled, " if steps else ""
            tell(f"{done}{minutes} min")
