"""Table of the modules that have moved since version 0.1."""

from cropr_mm.moved import MOVED, REMOVED, SPLIT
from tables.records import markdown


def moved_modules() -> str:
    """Old module and new one."""
    rows = {old: f"`cropr_mm.{new}`" for old, new in MOVED.items()}
    for old, names in SPLIT.items():
        rows[old] = ", ".join(f"`cropr_mm.{new}`" for new in names.values())
    for old, place in REMOVED.items():
        rows[old] = f"left the package, see `{place}` in the repository"
    cells = [[f"`cropr_mm.{old}`", new] for old, new in sorted(rows.items())]
    return markdown(["version 0.1", "version 0.2"], cells, left=2)
