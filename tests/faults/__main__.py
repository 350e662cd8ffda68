"""Run every fault and say how it ended: ``python tests/faults [--row NAME]``."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from hosts import exempt_from_collection, unformatted_configs
from page import PAGE, shown, write_page
from row import Outcome, Row, all_rows, outcome

from cropr_mm.engine.console import ignore_noise


def main() -> None:
    """Run rows, print one line for each, and write the page when all were run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", metavar="NAME", help="this row only, with its whole message")
    args = parser.parse_args()
    rows = [row for row in all_rows() if args.row in (None, row.name)]
    if not rows:
        parser.error(f"expected a row of {', '.join(row.name for row in all_rows())}")
    ignore_noise()
    width, ends = max(len(row.name) for row in rows), []
    for row in rows:
        exempt_from_collection()
        start = time.perf_counter()
        with unformatted_configs():
            end = _run(row, whole=bool(args.row))
        ends.append(end)
        seconds = time.perf_counter() - start
        message = end.message if args.row else end.message[:100]
        print(
            f"{row.name.ljust(width)}  {end.kind.ljust(9)}  {seconds:5.1f} s  {message}", flush=True
        )
    counts = Counter(end.kind for end in ends)
    print(f"{len(ends)} rows: " + ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)))
    if not args.row:
        write_page(rows, ends)
        print(f"{PAGE} written")
    wrong = [row.name for row, end in zip(rows, ends, strict=True) if end.kind != row.expected]
    if wrong:
        sys.exit(f"not as expected: {', '.join(wrong)}")


def _run(row: Row, whole: bool) -> Outcome:
    """How a row ends in a fresh folder; its message is made fit for the table unless ``whole``."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, row.name)
        folder.mkdir()
        end = outcome(row, folder)
    return end if whole else end._replace(message=shown(end.message, folder))


if __name__ == "__main__":
    main()
