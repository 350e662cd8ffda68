"""What every record of a study starts with: the command, the machine and the versions."""

import shlex
import sys
from pathlib import Path
from typing import Any

from cropr_mm.profiling.environment import git_commit, machine_name, versions


def study_record(device: str = "cpu", **found: Any) -> dict[str, Any]:
    """A record as plain values for JSON.

    Args:
        device: Where it ran.
        found: What was asked for and what came out, behind the rest.
    """
    program = f"benchmarks/{Path(sys.argv[0]).name}"
    return dict(
        command=shlex.join(["python", program, *sys.argv[1:]]),
        machine=machine_name(device),
        versions=versions(),
        commit=git_commit(),
        **found,
    )
