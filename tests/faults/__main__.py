"""Run every fault and say how it ended: ``python tests/faults [--row NAME] [--quick]``."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from row import Outcome, Row, all_rows, outcome

from cropr_mm.engine.console import ignore_noise

_PAGE = Path(__file__).parents[2] / "docs/reliability.md"
_MARKS = ("<!-- faults -->", "<!-- end of faults -->")


def main() -> None:
    """Run rows, print one line for each, and write the page when all were run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", metavar="NAME", help="this row only, with its whole message")
    parser.add_argument("--quick", action="store_true", help="leave out rows that start processes")
    args = parser.parse_args()
    rows = [
        row for row in all_rows() if args.row in (None, row.name) and not (args.quick and row.slow)
    ]
    if not rows:
        parser.error(f"expected a row of {', '.join(row.name for row in all_rows())}")
    ignore_noise()
    width, ends = max(len(row.name) for row in rows), []
    for row in rows:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            ends.append(end := _run(row, Path(folder, row.name)))
        seconds = time.perf_counter() - start
        message = end.message if args.row else " ".join(end.message.split())[:100]
        print(f"{row.name.ljust(width)}  {end.kind.ljust(9)}  {seconds:5.1f} s  {message}")
    counts = Counter(end.kind for end in ends)
    print(f"{len(ends)} rows: " + ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)))
    if not args.row and not args.quick:
        _write_page(rows, ends)
    wrong = [row.name for row, end in zip(rows, ends, strict=True) if end.kind != row.expected]
    if wrong:
        sys.exit(f"not as expected: {', '.join(wrong)}")


def _run(row: Row, folder: Path) -> Outcome:
    folder.mkdir()
    end = outcome(row, folder)
    return end._replace(message=end.message.replace(f"{folder}/", "").replace(str(folder), "."))


def _write_page(rows: list[Row], ends: list[Outcome]) -> None:
    """Put the table between the marks of the page."""
    lines = ["| fault | ends | what is said |", "|---|---|---|"]
    section = ""
    for row, end in zip(rows, ends, strict=True):
        if row.section != section:
            section = row.section
            lines.append(f"| **{section}** | | |")
        said = " ".join(end.message.split()).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| {row.fault} | {end.kind} | {said} |")
    head, rest = _PAGE.read_text().split(_MARKS[0])
    tail = rest.split(_MARKS[1])[1]
    _PAGE.write_text("\n".join([head + _MARKS[0], *lines, _MARKS[1]]) + tail)
    print(f"{_PAGE} written")


if __name__ == "__main__":
    main()
