"""What a search found: a table, a record, a config, a picture."""

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from cropr_mm.budget.choose import Choice
from cropr_mm.budget.damage import MIN_BATCHES, Losses, interval
from cropr_mm.budget.search import Budget, Candidate, Cost
from cropr_mm.text_table import format_table

_ABOUT = """# A schedule found by tools/search_schedule.py: {ms:.1f} ms a call (dense {dense:.1f}),
# loss {growth:+.1%} on training images. The budget ({budget}) was {met}.
# Machine, form and alternatives are in report.json.
"""
_CONFIG = """_base_ = {base!r}
work_dir = {work_dir!r}
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
        steps = ", ".join(f"{n} after {block + 1}" for block, n in c.plan.items())
        rows.append(
            [
                f"{name} *" if name == chosen else name,
                f"{c.ms:.1f}",
                f"{c.predicted_ms:.1f}",
                f"{dense / c.ms:.2f}x",
                f"{c.growth:+.1%}",
                _ends(c.losses, c.interval),
                steps or f"{total}, all tokens",
            ]
        )
    return format_table(rows)


def better_by(found: Candidate, other: Candidate) -> str:
    """Loss of one plan against another's, on the same batches."""
    change = found.losses.mean() / other.losses.mean() - 1
    ends = _ends(found.losses, interval(found.losses, other.losses))
    return f"{change:+.1%} {ends}".rstrip()


def _ends(losses: Losses, ends: tuple[float, float]) -> str:
    """An interval over batches, empty where they are too few for one."""
    return "({:+.1%} to {:+.1%})".format(*ends) if len(losses) >= MIN_BATCHES else ""


def write_config(
    file: Path,
    cfg: Config,
    found: Candidate,
    dense_ms: float,
    entry: Mapping[str, Any],
    shares: Mapping[int, float],
    inherit: bool,
    budget: Budget,
    is_met: bool,
) -> None:
    """Write a config that prunes by a found plan.

    Args:
        file: Config to write; its folder is the working folder of the tools that it is given to.
        cfg: The searched config.
        found: The plan.
        dense_ms: Measured time of the dense encoder.
        entry: 'reducer' and 'fusion' of the backbone.
        shares: Share of the patch tokens that is left after each block with a step.
        inherit: Whether the user's file says all of ``cfg``, so that the new one can inherit from
            it; otherwise the new one is complete.
        budget: What was asked for.
        is_met: Whether the plan meets it as measured.
    """
    about = _ABOUT.format(
        ms=found.ms,
        dense=dense_ms,
        growth=found.growth,
        budget=budget,
        met="met" if is_met else "NOT met",
    )
    schedule = dict(type="cropr_mm.ExplicitShares", share=dict(shares))
    parts = {**entry, "schedule": schedule}
    backbone, work_dir = cfg.model.backbone, str(file.parent)
    if not inherit:
        whole = copy.deepcopy(cfg)
        whole.work_dir = work_dir
        for name, part in parts.items():
            whole.model.backbone[name] = part
        file.write_text(about + whole.pretty_text)
        return
    texts = {
        name: repr({"_delete_": True, **part} if name in backbone and part else part)
        for name, part in parts.items()
    }
    base = os.path.relpath(cfg.filename, file.parent)
    file.write_text(about + _CONFIG.format(base=base, work_dir=work_dir, **texts))


def write_record(
    file: Path,
    about: Mapping[str, Any],
    cost: Cost,
    frontier: Sequence[Choice],
    candidates: Mapping[str, Candidate],
    load: float,
) -> None:
    """Write what was found as JSON.

    Args:
        file: File to write.
        about: What was asked for, and where it ran.
        cost: What tokens cost.
        frontier: Predicted plans.
        candidates: Measured ones.
        load: Cores that other processes kept busy while those were timed.
    """
    record = {
        **about,
        "cost": cost.as_dict(),
        "load": load,
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
