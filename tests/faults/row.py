"""What a fault is, and how it ended."""

import io
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

from hosts import forget_runs

from cropr_mm.engine.console import short_errors

# Rows use the tiny tasks of the end-to-end tests and the forged files of the unit tests.
sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("e2e", "unit"))


class Row(NamedTuple):
    """A fault of data, files, training or host.

    Attributes:
        name: Short and unique, such as 'coco-nan-box'.
        section: Heading of the table below which the row stands, such as 'Boxes of COCO files'.
        fault: What is done, in a few words, for the table.
        says: Regular expression that the message or warning must match.
        run: Puts the fault into a fresh folder and starts the work there. Returns None, or, where
            the work recovers, what shows that nothing was lost.
        expected: How it ends: 'clear' or 'recovered'.
    """

    name: str
    section: str
    fault: str
    says: str
    run: Callable[[Path], str | None]
    expected: Literal["clear", "recovered"] = "clear"


class Outcome(NamedTuple):
    """How a fault ended.

    Attributes:
        kind: 'clear' (a short error or a warning that says what it must), 'recovered' (the work was
            done and nothing lost), 'silent' (the work was done, or ended in a short error, and
            nothing said what it must) or 'traceback' (any other exception).
        message: The error, the first matching line of what was printed, or the end of the output
            (for a traceback both, the error and the end of the output).
    """

    kind: Literal["clear", "recovered", "silent", "traceback"]
    message: str


def all_rows() -> list[Row]:
    """Rows of all files beside this one whose name ends in ``_rows.py``."""
    files = sorted(Path(__file__).parent.glob("*_rows.py"))
    return [row for file in files for row in import_module(file.stem).ROWS]


def outcome(row: Row, folder: Path) -> Outcome:
    """Run a row in an empty folder and say how it ended."""
    forget_runs()
    printed = io.StringIO()
    try:
        with (
            redirect_stdout(printed),
            redirect_stderr(printed),
            warnings.catch_warnings(record=True) as warned,
            short_errors(),
        ):
            warnings.simplefilter("always")
            proof = row.run(folder)
    except SystemExit as end:
        # Programs end with a number where argparse, or an interrupt, has printed the reason.
        message = printed.getvalue().strip() if isinstance(end.code, int) else str(end.code)
        said = _line(row.says, message, folder)
        return Outcome("silent" if said is None else "clear", said or message)
    except Exception as error:
        end = printed.getvalue()[-1500:]
        return Outcome("traceback", f"{type(error).__name__}: {error}; printed before:\n{end}")
    text = "\n".join([printed.getvalue().strip(), *(str(one.message) for one in warned)])
    if (said := _line(row.says, text, folder)) is None:
        return Outcome("silent", text[-1500:])
    return Outcome("clear", said) if proof is None else Outcome("recovered", f"{said}; {proof}")


def _line(pattern: str, text: str, folder: Path) -> str | None:
    """The first line that matches, and not by the name of the row's folder alone."""
    for line in text.splitlines():
        if re.search(pattern, line.replace(f"{folder}/", "")):
            return line.strip()
    return None
