"""What the runs of a comparison say: intervals and tables."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from numpy.typing import NDArray

from cropr_mm.engine.preflight import SetupError
from experiments.benchmark_tasks import BENCHMARK_TASKS
from experiments.bootstrap import draw_images, paired_interval
from experiments.run_records import Values, taken_values, write_record
from experiments.runs import Run
from experiments.scores import TASKS
from experiments.variants import family, same_rate

MARGIN = 0.5
"""Points of the main metric that pruning may cost."""
_SEEN = " Seen: ground-truth mask pixels whose token the block with the fewest tokens sees, %."


def summarize(
    runs: Mapping[tuple[str, int], Run],
    variants: Sequence[str],
    seeds: Sequence[int],
    samples: int,
    jobs: int = 1,
    records: Path | None = None,
) -> dict[str, Any]:
    """Intervals of every variant and of its paired differences: to 'dense', 'cropr' and 'random'.

    Args:
        runs: Finished runs of one benchmark, by (variant, seed).
        variants: Names, 'dense' among them.
        seeds: Seeds.
        samples: Bootstrap samples of images.
        jobs: Processes.
        records: Folder that each finished run gets a record in; None writes none.

    Returns:
        Plain values for JSON: percent; of a variant that did not converge 'failed', why by seed.
    """
    (benchmark,) = {run.benchmark for run in runs.values()}
    task = TASKS[BENCHMARK_TASKS[benchmark].task]
    failed = {
        name: {str(seed): why for seed in seeds if (why := runs[name, seed].failure)}
        for name in variants
    }
    converged = [name for name in variants if not failed[name]]
    scored = {(name, seed): runs[name, seed] for name in converged for seed in seeds}
    with ProcessPoolExecutor(jobs) as pool:
        results = dict(zip(scored, pool.map(score, scored.values(), repeat(samples)), strict=True))

    if records is not None:
        for made, scores in results.items():
            if taken_values(scored[made]) is None:  # a record that was taken is another machine's
                write_record(scored[made], scores, records)

    def stack(name: str, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = [results[name, seed] for seed in seeds]
        return (
            np.array([values.whole[metric] for values in found]),
            np.stack([values.resampled[metric] for values in found]),
        )

    summary: dict[str, Any] = {
        "metrics": list(task.metrics),
        "seeds": list(seeds),
        "samples": samples,
        "variants": {},
    }
    for name in variants:
        if failed[name]:
            summary["variants"][name] = {"failed": failed[name]}
            continue
        entry: dict[str, Any] = {}
        for metric in task.metrics:
            values, resampled = stack(name, metric)
            entry[metric] = {
                "per_seed": values.tolist(),
                "mean": paired_interval(values, resampled)._asdict(),
            }
            for other, key, sign in (
                ("dense", "minus_dense", 1.0),
                (same_rate(name, "cropr"), "cropr_minus_it", -1.0),
                (same_rate(name, "random"), "minus_random", 1.0),
            ):
                if other not in variants or other == name or failed[other]:
                    continue
                theirs, theirs_resampled = stack(other, metric)
                entry[metric][key] = paired_interval(
                    sign * (values - theirs), sign * (resampled - theirs_resampled)
                )._asdict()
        classes = [results[name, seed].by_class for seed in seeds]
        if classes[0]:
            entry["by_class_per_seed"] = classes
        finished = [runs[name, seed].result for seed in seeds]
        entry["metrics_per_seed"] = [result["metrics"] for result in finished]
        if "mask_pixels_seen" in finished[0]:
            entry["mask_pixels_seen"] = [result["mask_pixels_seen"] for result in finished]
        entry["seconds_per_iteration"] = [result["seconds_per_iteration"] for result in finished]
        entry["iterations"] = finished[0]["iterations"]
        summary["variants"][name] = entry
    return summary


def score(run: Run, samples: int) -> Values:
    """Metrics of one run on all images and on each sample of them.

    Raises:
        SetupError: If a record with another number of samples was taken for it.
    """
    if (taken := taken_values(run)) is not None:
        there = min(len(values) for values in taken.resampled.values())
        if there != samples:
            raise SetupError(
                f"{run}: expected {samples} bootstrap samples, got {there} by the record that was "
                f"taken; remove {run.folder}, or give --samples {there}"
            )
        return taken
    task = TASKS[BENCHMARK_TASKS[run.benchmark].task]
    cfg = Config.fromfile(run.config)
    init_default_scope(cfg.default_scope)
    scores = task.read(cfg, run.folder)
    whole = scores(np.arange(scores.num_images))
    drawn = [
        scores(images) for images in draw_images(scores.num_images, samples, films=scores.films)
    ]
    resampled = {metric: np.array([values[metric] for values in drawn]) for metric in whole}
    return Values(whole, resampled, scores.by_class())


def format_tables(record: Mapping[str, Any]) -> str:
    """One Markdown table per benchmark."""
    blocks = []
    for benchmark, summary in record.items():
        speed, metrics = summary["encoder_speed"], summary["metrics"]
        main = metrics[-1]
        seen = "mask_pixels_seen" in summary["variants"]["dense"]
        head = ["model", "pruned", *metrics, "median", f"{main} - dense", "Cropr - it"]
        compiled = speed.get("compiled", {})
        head += [*["seen"] * seen, "encoder", *["compiled"] * bool(compiled)]
        rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
        for name, entry in summary["variants"].items():
            ratios = [speed["functions"][name]["speedup"]]
            ratios += [compiled[name]] if compiled else []
            rows.append(
                [
                    name,
                    f"{speed['pruned_percent'][name]:.0f} %",
                    *_accuracy(entry, metrics, seen),
                    *[f"{r['value']:.2f}x ({r['low']:.2f} to {r['high']:.2f})" for r in ratios],
                ]
            )
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        idle = "idle machine" if speed["idle"] else f"NOT IDLE, load {speed['load']:.2f}"
        seeds = len(summary["seeds"])
        over = "seeds (Student's t) and images (bootstrap)" if seeds > 1 else "images, one seed"
        blocks.append(
            f"**{benchmark}**: mean of {seeds} seed{'s' * (seeds > 1)} in percent, intervals of "
            f"95 % over {over}, none corrected for the number of comparisons; median: of {main} "
            f"over seeds; encoder{' and compiled' * bool(compiled)}: speed-up over dense ({idle}, "
            f"{speed['threads']} threads, batch {speed['images_per_call']})."
            + (_SEEN if seen else "")
            + "\n\n"
            + "\n".join(lines)
            + f"\n\n{_highest_rate(summary)}"
        )
    return "\n\n".join(blocks)


def _accuracy(entry: Mapping[str, Any], metrics: Sequence[str], seen: bool) -> list[str]:
    """Cells of a row between rate and speed."""
    if "failed" in entry:
        why = ", ".join(f"{reason} (seed {seed})" for seed, reason in entry["failed"].items())
        return [f"did not converge: {why}", *[""] * (len(metrics) + 2 + seen)]
    main = entry[metrics[-1]]
    return [
        *[interval_text(entry[metric]["mean"]) for metric in metrics],
        f"{np.median(main['per_seed']):.1f}",
        interval_text(main.get("minus_dense"), signed=True),
        interval_text(main.get("cropr_minus_it"), signed=True),
        *([f"{100 * np.mean(entry['mask_pixels_seen']):.0f}"] if seen else []),
    ]


def _highest_rate(summary: Mapping[str, Any]) -> str:
    """The rate up to which Cropr may always be within half a point of dense, and its speed-up."""
    main, speed = summary["metrics"][-1], summary["encoder_speed"]
    rates = sorted(
        (speed["pruned_percent"][name], name)
        for name in summary["variants"]
        if family(name) == "cropr"
    )
    if not rates:
        return "Cropr with even steps is not among the models."

    def is_near(rate: tuple[float, str]) -> bool:
        entry = summary["variants"][rate[1]]
        return "failed" not in entry and entry[main]["minus_dense"]["high"] >= -MARGIN

    near = list(takewhile(is_near, rates))
    if not near:
        return f"At every rate Cropr loses more than {MARGIN} {main}."
    percent, name = near[-1]
    ratio = speed["functions"][name]["speedup"]["value"]
    return (
        f"Up to {percent:.0f} % pruned a loss of no more than {MARGIN} {main} is in Cropr's "
        "interval, which does not show that it loses so little; the encoder is "
        f"{ratio:.2f}x as fast there."
    )


def interval_text(interval: Mapping[str, float] | None, signed: bool = False) -> str:
    """A value with its interval, to a tenth; empty without one."""
    if interval is None:
        return ""
    form = "+.1f" if signed else ".1f"
    return f"{interval['value']:{form}} ({interval['low']:{form}} to {interval['high']:{form}})"
