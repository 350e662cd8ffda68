"""Share of ground-truth pixels, by class, that trained pruned segmenters still see at each step.

Needs the models that ``benchmarks/pruners.py compare --task seg`` trains.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.bootstrap import Interval, draw_images, paired_interval
from experiments.pixels_seen import PixelsSeen, pixels_seen
from experiments.stored_runs import failures, stored_runs

SAMPLES = 500


def compare_seen(runs: Path, benchmark: str, variants: Sequence[str], seeds: Sequence[int]) -> None:
    """Print a table and write ``seen.json`` beside the models of the benchmark.

    Args:
        runs: Folder of the trained models.
        benchmark: Name of a benchmark task in segmentation.
        variants: Names of pruned variants, 'cropr' among them.
        seeds: Seeds of the trained models.

    Raises:
        SetupError: If a model was never trained, or merges tokens.
    """
    trained = stored_runs(runs, [benchmark], variants, seeds)
    failed = failures(trained)
    found = {
        name: [pixels_seen(run) for run in trained if run.name == name]
        for name in variants
        if name not in failed
    }
    record = {**summarize_seen(found), "failed": failed}
    print(f"\n{seen_table(record)}")
    file = runs / benchmark / "seen.json"
    file.write_text(json.dumps({benchmark: {"seeds": seeds, **record}}, indent=2) + "\n")
    print(f"\nnumbers  {file}")


def summarize_seen(found: dict[str, list[PixelsSeen]]) -> dict:
    """Shares by step and class, and intervals of the mean over classes after the last step."""
    first = found["cropr"][0]
    images = np.arange(len(first.total))
    drawn = draw_images(len(images), SAMPLES, films=first.films)
    last = {
        name: (
            np.array([_mean_of_classes(run, images) for run in runs]),
            np.array([[_mean_of_classes(run, some) for some in drawn] for run in runs]),
        )
        for name, runs in found.items()
    }
    variants = {}
    for name, runs in found.items():
        shares = np.mean([run.shares(images) for run in runs], axis=0)  # (S, K)
        entry = {
            "percent_seen": shares.tolist(),
            "last_step": paired_interval(*last[name])._asdict(),
        }
        if name != "cropr":
            difference = [
                ours - theirs for ours, theirs in zip(last["cropr"], last[name], strict=True)
            ]
            entry["cropr_minus_it"] = paired_interval(*difference)._asdict()
        variants[name] = entry
    return {"classes": first.classes, "blocks": first.blocks, "variants": variants}


def seen_table(record: dict) -> str:
    """Markdown; blocks count from 1."""
    steps = [f"after block {block + 1}" for block in record["blocks"]]
    head = ["pruner", *steps, "Cropr - it, last step"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, entry in record["variants"].items():
        *means, _ = np.nanmean(entry["percent_seen"], axis=1)
        cells = [f"{mean:.1f}" for mean in means]
        rows.append([name, *cells, _text(entry["last_step"]), _text(entry.get("cropr_minus_it"))])
    for name, why in record["failed"].items():
        rows.append([name, f"did not converge ({why})", *[""] * (len(head) - 2)])
    title = "Percent of the pixels whose token is alive, mean over classes and seeds."
    return title + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _mean_of_classes(run: PixelsSeen, images: NDArray[np.int64]) -> float:
    return float(np.nanmean(run.shares(images)[-1]))


def _text(entry: dict[str, float] | None) -> str:
    if entry is None:
        return ""
    value = Interval(**entry)
    return f"{value.value:.1f} ({value.low:.1f} to {value.high:.1f})"
