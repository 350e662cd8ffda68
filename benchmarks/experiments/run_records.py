"""Finished runs as small files, which a comparison on another machine takes for its own."""

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from cropr_mm.checkpoints.atomic import replacing
from cropr_mm.engine.preflight import SetupError
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
        The file, ``folder/BENCHMARK/seedS/NAME.json``; one of the same config and number of samples
        stays.

    Raises:
        SetupError: If the file that is there is damaged.
    """
    file, text = _file(run, folder), run.config.read_text()
    plain = _plain(values)
    if not file.exists() or _difference(_read(file), run, text, _samples(plain)) is not None:
        record = dict(
            machine=machine_name("cpu"),
            versions=versions(),
            config=_neutral(run, text).splitlines(),
            result=run.result,
            **plain,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(record) + "\n")
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

    Raises:
        SetupError: If the record is damaged.
    """
    file = _file(run, folder)
    if not file.exists() or run.config.exists():
        return None
    record = _read(file)
    if (why := _difference(record, run, text, samples)) is not None:
        return f"{file} {why}"
    run.folder.mkdir(parents=True, exist_ok=True)
    values = {key: record[key] for key in Values._fields}
    (run.folder / "values.json").write_text(json.dumps(values))
    (run.folder / "result.json").write_text(json.dumps(record["result"], indent=2) + "\n")
    run.config.write_text(text)
    return None


def taken_values(run: Run) -> Values | None:
    """What :func:`take_record` brought, None if the run was made here."""
    file = run.folder / "values.json"
    if not file.exists():
        return None
    values = json.loads(file.read_text())
    resampled = {metric: np.array(drawn) for metric, drawn in values["resampled"].items()}
    return Values(values["whole"], resampled, values["by_class"])


def _difference(record: Mapping[str, Any], run: Run, text: str, samples: int) -> str | None:
    """What a record has other than this config and number of samples; None where nothing."""
    if (drawn := _samples(record)) != samples:
        return f"has {drawn} bootstrap samples, not {samples}"
    there, here = "\n".join(record["config"]), _neutral(run, text)
    if _joined(there) == _joined(here):
        return None
    # Written anew, both have their line breaks in the same places.
    lines = [Config.fromstring(config, ".py").pretty_text.splitlines() for config in (there, here)]
    changes = [line for line in difflib.ndiff(*lines) if line[0] in "-+"]
    return f"is of another config: {'; '.join(changes[:2])}"


def _read(file: Path) -> dict[str, Any]:
    """A record with all its parts."""
    try:
        record = json.loads(file.read_text())
        if {"config", "result", *Values._fields} <= set(record) and _samples(record):
            return record
    except (ValueError, TypeError, AttributeError):
        pass
    raise SetupError(f"{file}: expected a record of a finished run, got a damaged one; remove it")


def _samples(record: Mapping[str, Any]) -> int:
    """Bootstrap samples of each metric."""
    (samples,) = {len(drawn) for drawn in record["resampled"].values()}
    return samples


def _plain(values: Values) -> dict[str, Any]:
    resampled = {metric: drawn.round(4).tolist() for metric, drawn in values.resampled.items()}
    return dict(whole=values.whole, resampled=resampled, by_class=values.by_class)


def _file(run: Run, folder: Path) -> Path:
    return folder / run.benchmark / f"seed{run.seed}" / f"{run.name}.json"


def _joined(text: str) -> str:
    """The text without spaces: where lines break depends on the length of this machine's paths."""
    return "".join(text.split())


def _neutral(run: Run, text: str) -> str:
    """The config with names for this machine's folders."""
    text = text.replace(str(run.folder.parents[2]), "$OUT")
    roots = [(root.rstrip("/"), name) for name in _ROOTS if (root := os.environ.get(name))]
    # One may lie in the other, so the longer one goes first.
    for root, name in sorted(roots, key=lambda pair: -len(pair[0])):
        text = re.sub(f"{re.escape(root)}/+", f"${name}/", text)
    return text
