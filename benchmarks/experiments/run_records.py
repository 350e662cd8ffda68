"""Finished runs as small files, which a comparison on another machine takes for its own."""

import difflib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cropr_mm.profiling.environment import machine_name, versions
from experiments.runs import Run

_ROOTS = ("CROPR_DATA_ROOT", "CROPR_WEIGHTS_ROOT")


class Values(NamedTuple):
    """Metrics of one run: on all images, on each sample of them, and the main one by class."""

    whole: dict[str, float]
    resampled: dict[str, NDArray[np.float64]]
    by_class: dict[str, float]


def write_record(run: Run, values: Values, folder: Path) -> Path:
    """Write what a comparison needs of a finished run: config, result, values and machine.

    Paths of this machine stand in the config by name. Samples are rounded to 0.0001 points.

    Returns:
        The file, ``folder/BENCHMARK/seedS/NAME.json``; one that is there stays.
    """
    file = _file(run, folder)
    if not file.exists():
        record = dict(
            machine=machine_name("cpu"),
            versions=versions(),
            config=_neutral(run, run.config.read_text()).splitlines(),
            result=run.result,
            **_plain(values),
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record) + "\n")
    return file


def take_record(run: Run, text: str, samples: int, folder: Path) -> str | None:
    """Let a run be finished, if a record of exactly this config is there and it has no folder yet.

    Args:
        run: The run.
        text: Its config.
        samples: Bootstrap samples that are wanted.
        folder: Where :func:`write_record` wrote.

    Returns:
        Why a record that is there was not taken; None if it was, or if there is none.
    """
    file = _file(run, folder)
    if not file.exists() or run.config.exists():
        return None
    record = json.loads(file.read_text())
    drawn = {len(values) for values in record["resampled"].values()}
    if drawn != {samples}:
        return f"{file} has {min(drawn)} bootstrap samples, not {samples}"
    there, here = record["config"], _neutral(run, text).splitlines()
    if _joined(there) != _joined(here):
        changes = [line for line in difflib.ndiff(there, here) if line[0] in "-+"]
        return f"{file} is of another config: {'; '.join(changes[:2])}"
    run.folder.mkdir(parents=True)
    run.config.write_text(text)
    values = {key: record[key] for key in Values._fields}
    (run.folder / "values.json").write_text(json.dumps(values))
    (run.folder / "result.json").write_text(json.dumps(record["result"], indent=2) + "\n")
    return None


def taken_values(run: Run) -> Values | None:
    """What :func:`take_record` brought, None if the run was made here."""
    file = run.folder / "values.json"
    if not file.exists():
        return None
    values = json.loads(file.read_text())
    resampled = {metric: np.array(drawn) for metric, drawn in values["resampled"].items()}
    return Values(values["whole"], resampled, values["by_class"])


def _plain(values: Values) -> dict[str, Any]:
    resampled = {metric: drawn.round(4).tolist() for metric, drawn in values.resampled.items()}
    return dict(whole=values.whole, resampled=resampled, by_class=values.by_class)


def _file(run: Run, folder: Path) -> Path:
    return folder / run.benchmark / f"seed{run.seed}" / f"{run.name}.json"


def _joined(lines: list[str]) -> str:
    """The text without spaces: where lines break depends on the length of this machine's paths."""
    return "".join("".join(lines).split())


def _neutral(run: Run, text: str) -> str:
    """The config with names for this machine's folders."""
    text = text.replace(str(run.folder.parents[2]), "$OUT")
    for name in _ROOTS:
        if root := os.environ.get(name):
            text = text.replace(root.rstrip("/"), f"${name}")
    return text
