"""What a search found: a table, a record, a config, a picture."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cropr_mm.budget.choose import Choice
from cropr_mm.budget.damage import interval
from cropr_mm.budget.search import Candidate, Cost
from cropr_mm.text_table import format_table

_CONFIG = """# A schedule found by tools/search_schedule.py: {ms:.1f} ms a call (dense {dense:.1f}),
# loss {growth:+.1%} on training images. Machine, form and alternatives are in report.json.
_base_ = {base!r}
model = dict(
    backbone=dict(
        reducer={reducer},
        schedule={schedule},
        fusion={fusion},
    )
)
"""


def format_candidates(candidates: Mapping[str, Candidate], total: int, chosen: str) -> str:
    """Aligned table of all plans that were measured whole; the chosen one is marked."""
    head = ["", "ms", "predicted", "speed-up", "loss", "(95 %)", "steps: tokens after block"]
    rows = [head]
    dense = candidates["dense"].ms
    for name, c in candidates.items():
        low, high = c.interval
        steps = ", ".join(f"{n} after {block + 1}" for block, n in c.plan.items())
        rows.append(
            [
                f"{name} *" if name == chosen else name,
                f"{c.ms:.1f}",
                f"{c.predicted_ms:.1f}",
                f"{dense / c.ms:.2f}x",
                f"{c.growth:+.1%}",
                f"({low:+.1%} to {high:+.1%})",
                steps or f"{total}, all tokens",
            ]
        )
    return format_table(rows)


def better_by(found: Candidate, other: Candidate) -> str:
    """Loss of one plan against another's, on the same batches."""
    low, high = interval(found.losses, other.losses)
    change = found.losses.mean() / other.losses.mean() - 1
    return f"{change:+.1%} ({low:+.1%} to {high:+.1%})"


def write_config(
    file: Path,
    base: str,
    found: Candidate,
    dense_ms: float,
    entry: Mapping[str, Any],
    total: int,
    replaced: Sequence[str],
) -> None:
    """Write a config that inherits from the user's and prunes by a found plan.

    Args:
        file: Config to write.
        base: The user's config.
        found: The plan.
        dense_ms: Measured time of the dense encoder.
        entry: 'reducer' and 'fusion' of the backbone.
        total: Patch tokens of the native image.
        replaced: Which of 'reducer', 'schedule' and 'fusion' the user's config has too.
    """
    shares = {block: round(count / total, 6) for block, count in found.plan.items()}
    schedule = dict(type="cropr_mm.ExplicitShares", share=shares)
    parts = {**entry, "schedule": schedule}
    texts = {
        name: repr({"_delete_": True, **part} if name in replaced and part else part)
        for name, part in parts.items()
    }
    base = os.path.relpath(base, file.parent)
    file.write_text(
        _CONFIG.format(ms=found.ms, dense=dense_ms, growth=found.growth, base=base, **texts)
    )


def write_record(
    file: Path,
    about: Mapping[str, Any],
    cost: Cost,
    frontier: Sequence[Choice],
    candidates: Mapping[str, Candidate],
) -> None:
    """Write what was found as JSON.

    Args:
        file: File to write.
        about: What was asked for, and where it ran.
        cost: What tokens cost.
        frontier: Predicted plans.
        candidates: Measured ones.
    """
    record = {
        **about,
        "cost": cost.as_dict(),
        "frontier": [choice._asdict() for choice in frontier],
        "candidates": {
            name: {**c._asdict(), "losses": c.losses.tolist()} for name, c in candidates.items()
        },
    }
    file.write_text(json.dumps(record, indent=2) + "\n")


def draw_search(
    file: Path,
    cost: Cost,
    frontier: Sequence[Choice],
    candidates: Mapping[str, Candidate],
    title: str,
) -> None:
    """Draw loss over time of the frontier and of what was measured, and the cost model's checks."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    left.plot(
        [c.ms for c in frontier], [100 * c.damage for c in frontier], color="0.6", label="predicted"
    )
    for i, (name, c) in enumerate(candidates.items()):
        spread = 100 * np.abs(np.array(c.interval) - c.growth)[:, None]
        left.errorbar(
            c.ms, 100 * c.growth, yerr=spread, fmt="o", capsize=3, color=f"C{i}", label=name
        )
    measured = [100 * c.interval[1] for c in candidates.values()]
    left.set_ylim(min(0.0, *measured) - 2, 1.3 * max(*measured, 5.0))
    left.set_xlabel("milliseconds of one call of the encoder")
    left.set_ylabel("growth of the loss, %")
    left.set_title(title, fontsize=9, loc="left")
    left.legend(fontsize=8)
    left.grid(alpha=0.3)
    predicted, times = zip(*cost.checks, strict=True)
    right.plot(times, predicted, "o")
    ends = [0, 1.05 * max(*predicted, *times)]
    right.plot(ends, ends, color="0.6", linewidth=1)
    right.set_xlabel("measured ms")
    right.set_ylabel("predicted ms")
    right.set_title("cost of plans that were not fitted", fontsize=9, loc="left")
    right.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
