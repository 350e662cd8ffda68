"""The table of faults in the documents: messages without what differs between machines."""

import re
from pathlib import Path

from row import Outcome, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability.md"
_MARKS = ("<!-- faults -->", "<!-- end of faults -->")
_LONGEST = 320  # letters of a message
_MACHINE = (
    (r" \(raised in [^)]*\)", ""),
    (r"^\d\d/\d\d \d\d:\d\d:\d\d - \w+ - (WARNING|INFO|ERROR) - ", ""),
    (r"\d{8}_\d{6}", "<time>"),
    (r"process \d+ on \S+?(?=[):,\s])", "process <id> on <host>"),
    (r"pid\(s\) \d+", "pid(s) <id>"),
    (r"\S*/site-packages/", ""),
    (r"0x[0-9a-f]{6,}", "0x..."),
)


def shown(message: str, folder: Path) -> str:
    """A message in one line, without paths, times and numbers of this machine.

    Args:
        message: What was said.
        folder: Where the row ran.
    """
    for path in (folder, ROOT, Path.home()):
        message = message.replace(f"{path}/", "").replace(str(path), ".")
    for pattern, text in _MACHINE:
        message = re.sub(pattern, text, message, flags=re.MULTILINE)
    message = " ".join(message.split())
    return message if len(message) <= _LONGEST else message[: _LONGEST - 4].rstrip() + " ..."


def write_page(rows: list[Row], ends: list[Outcome]) -> None:
    """Put the table between the marks of the page.

    Args:
        rows: All rows, in the order of the table.
        ends: How each ended.
    """
    kinds = [end.kind for end in ends]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    lines = [f"{len(rows)} faults: {counts}.", ""]
    lines += ["| fault | ends | what is said |", "|---|---|---|"]
    for section in dict.fromkeys(row.section for row in rows):
        lines.append(f"| **{section}** | | |")
        for row, end in zip(rows, ends, strict=True):
            if row.section == section:
                said = _cell(end.message)
                lines.append(f"| {row.fault} (`{row.name}`) | {end.kind} | {said} |")
    head, rest = PAGE.read_text().split(_MARKS[0])
    tail = rest.split(_MARKS[1])[1]
    PAGE.write_text("\n".join([head + _MARKS[0], "", *lines, "", _MARKS[1]]) + tail)


def _cell(text: str) -> str:
    """Text that neither ends a cell nor is taken for markup."""
    return re.sub(r"([\\|*_`\[\]])", r"\\\1", text).replace("<", "&lt;")
