"""Tables of the documents, made from configs and stored measurements.

A document holds a table between two comments; the first one names a generator of :data:`TABLES` and
its arguments, which are words::

    <!-- table: NAME ARGUMENT ... -->
    <!-- end -->

``make docs`` (or ``python -m tables`` with ``docs`` and ``benchmarks`` in ``PYTHONPATH``) writes
what the generator returns between them.
"""

from collections.abc import Callable

from tables import comparisons

TABLES: dict[str, Callable[..., str]] = {
    "comparison": comparisons.comparison,
}
