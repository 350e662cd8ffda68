"""Tables of ``benchmarks/pruners.py``: pruners against each other on small data."""

from experiments.report import format_tables
from tables.records import record


def comparison(name: str) -> str:
    """Metrics and encoder speed of every variant of a stored comparison."""
    return format_tables(record(name))
