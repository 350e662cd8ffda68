"""Build mmcv's wheel with its sources compiled a few at a time, as CMake's unity builds do.

Run by tools/mmcv_wheel.py in the folder of mmcv's unpacked sdist, with the interpreter of the
environment. Most of a compiler's time goes into torch's headers, which are the same for all of
mmcv's sources; a group includes its sources and so reads the headers once.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import NamedTuple

BUILD = Path("build") / "unity"

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.M)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
USING = re.compile(r"^using namespace\b", re.M)
# What mmcv writes at the start of a line: functions, types and constants of a file's own scope.
DEFINITIONS = (
    MACRO,
    re.compile(r"^(?!namespace\b)\w[^;{}()#]*?\b(\w+)\s*\([^;{}]*\)\s*\{", re.M),
    re.compile(r"^(?:template\s*<[^;{]*>\s*)?(?:struct|class|enum|union)\s+(\w+)[^;()]*\{", re.M),
    re.compile(r"^(?:static |const |constexpr |inline )+[\w:<> ]*?\b(\w+)(?:\[.*\])?\s*=", re.M),
    re.compile(r"^(?:using\s+(\w+)\s*=|typedef\s[^;{]*?\b(\w+)\s*;)", re.M),
)


class Source(NamedTuple):
    """One source of mmcv, as far as it matters to those compiled with it."""

    path: Path
    size: int  # bytes, which stand for the time to compile it without torch's headers
    names: dict[str, Path]  # what the file and mmcv's headers below it define, and where
    macros: tuple[str, ...]  # what the file itself defines; taken back behind it
    opens_namespace: bool  # holds "using namespace ...;", which nothing takes back


def read_source(path: Path, include_dirs: list[Path]) -> Source:
    """Read what a source defines, itself and through mmcv's own headers."""
    names: dict[str, Path] = {}
    waiting, seen = [path], {path}
    while waiting:
        file = waiting.pop()
        text = COMMENT.sub("", file.read_text(errors="replace"))
        for pattern in DEFINITIONS:
            for match in pattern.finditer(text):
                names.setdefault(match[match.lastindex or 0], file)
        for header in INCLUDE.findall(text):
            for folder in (file.parent, *include_dirs):
                found = (folder / header).resolve()
                if found.is_file() and found not in seen:
                    seen.add(found)
                    waiting.append(found)
                    break
    text = COMMENT.sub("", path.read_text(errors="replace"))
    macros = tuple(dict.fromkeys(MACRO.findall(text)))
    return Source(path, len(text), names, macros, bool(USING.search(text)))


def fits(source: Source, group: list[Source]) -> bool:
    """Tell whether no name means one thing in ``source`` and another in ``group``."""
    return all(
        other.names.get(name, file) == file
        for other in group
        for name, file in source.names.items()
    )


def split(sources: list[Source], jobs: int) -> list[list[Source]]:
    """Split sources into groups of about the same size in which no names clash.

    Args:
        sources: All of one language.
        jobs: Number of compilers that run at a time; the number of groups is a multiple of it.
    """
    by_size = sorted(sources, key=lambda s: (-s.size, s.path))
    for number in count(jobs, jobs):
        groups: list[list[Source]] = [[] for _ in range(number)]
        for source in by_size:
            fitting = [group for group in groups if fits(source, group)]
            if not fitting:
                break
            min(fitting, key=lambda group: sum(s.size for s in group)).append(source)
        else:
            return [sorted(g, key=lambda s: (s.opens_namespace, s.path)) for g in groups if g]
    raise AssertionError("unreachable: a group for each source always fits")


def unit(group: list[Source]) -> str:
    """Return the text of a file that includes the sources of a group."""
    lines = []
    for source in group:
        lines.append(f'#include "{source.path}"')
        lines += [f"#undef {macro}" for macro in source.macros]
    return "\n".join([*lines, ""])


def write_units(
    sources: list[str], include_dirs: list[str], jobs: int, apart: set[str]
) -> list[str]:
    """Write one file a group and return what to compile instead of ``sources``.

    Args:
        sources: Paths of mmcv's sources.
        include_dirs: Folders of mmcv's headers.
        jobs: Number of compilers that run at a time.
        apart: Names of groups whose sources are compiled one by one.
    """
    folders = [Path(folder).resolve() for folder in include_dirs]
    BUILD.mkdir(parents=True, exist_ok=True)
    units = []
    for suffix in (".cu", ".cpp"):  # the longest first
        paths = sorted(Path(s).resolve() for s in sources if s.endswith(suffix))
        for index, group in enumerate(split([read_source(p, folders) for p in paths], jobs)):
            name = f"group_{suffix[1:]}_{index}"
            if name in apart:
                units += [_relative(source.path) for source in group]
                continue
            path = (BUILD / name).with_suffix(suffix)
            path.write_text(unit(group))
            units.append(_relative(path))
    return units


def _relative(path: Path) -> str:
    """Path as setuptools takes it: from the folder of the set-up script."""
    return path.resolve().relative_to(Path.cwd().resolve()).as_posix()


def grouped(extension: Callable, jobs: int, apart: set[str]) -> Callable:
    """Make torch's ``CppExtension`` or ``CUDAExtension`` compile groups of its sources."""

    def make(name: str, sources: list[str], **settings: list) -> object:
        units = write_units(sources, settings["include_dirs"], jobs, apart)
        return extension(name, units, **settings)

    return make


def main() -> None:
    """Run mmcv's set-up script on groups of its sources."""
    from torch.utils import cpp_extension

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", help="folder of the wheel")
    parser.add_argument("--jobs", type=int, required=True, help="compilers that run at a time")
    parser.add_argument("--apart", nargs="*", default=[], help="groups to compile one by one")
    args = parser.parse_args()
    for name in ("CppExtension", "CUDAExtension"):
        extension = grouped(getattr(cpp_extension, name), args.jobs, set(args.apart))
        setattr(cpp_extension, name, extension)
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = ["setup.py", "bdist_wheel", "--dist-dir", args.out]
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    main()
